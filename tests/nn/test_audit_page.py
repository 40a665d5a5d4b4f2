"""The page of an audit: every tensor is on it, where it belongs on the axis, and nothing on it needs a network."""

import re
import xml.etree.ElementTree as ET

import pytest
import torch

from allometry import nn
from allometry.nn.checks.audit_page import audit_page
from allometry.nn.precision.formats import E4M3FN
from helpers.unit_scaled import decoder


def pictures(page: str) -> list[ET.Element]:
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page)]


@pytest.fixture(scope="module")
def audited():
    tokens = torch.randint(32, (2, 9))
    return nn.audit(decoder(), (tokens[:, :-1], tokens[:, 1:]), steps=2)


def test_every_tensor_is_drawn_at_both_moments(audited):
    page = audit_page(audited)
    drawn = sum(len(picture.findall(".//circle")) for picture in pictures(page))
    assert drawn == len(audited.rows)
    titles = "".join(element.text for picture in pictures(page) for element in picture.iter("title"))
    assert all(row.name in titles for row in audited.rows)
    assert "before training" in page
    assert "after 2 steps" in page
    assert not re.search(r"https?://|<script|<link|src=", page)


def test_a_tensor_twice_as_large_stands_one_power_to_the_right():
    def places(size: float) -> list[float]:
        model = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False))
        with torch.no_grad():
            model[0].weight.copy_(size * torch.eye(8))
        picture = pictures(audit_page(nn.audit(model, torch.ones(2, 8))))[0]
        return [float(circle.get("cx")) for circle in picture.findall(".//circle")]

    one, two, four = places(1.0), places(2.0), places(4.0)
    steps = [b - a for a, b in zip(one, two, strict=True) if b != a]
    assert steps
    assert [b - a for a, b in zip(two, four, strict=True) if b != a] == pytest.approx(steps, abs=0.2)
    shaded = pictures(audit_page(nn.audit(torch.nn.Linear(4, 4), torch.ones(2, 4))))[0].findall("rect")
    widths = [float(rect.get("width")) for rect in shaded]
    powers = torch.log2(torch.tensor(E4M3FN.max / E4M3FN.min_subnormal)).item()
    assert min(widths) == pytest.approx(powers * steps[0], rel=0.02)


def test_what_fails_is_marked_and_names_are_text():
    model = torch.nn.Sequential()
    model.add_module("a<b>", torch.nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight.mul_(1e-6)
        model[0].bias.zero_()
    page = audit_page(nn.audit(model, torch.ones(2, 4)))
    assert 'fill="#c00020"' in page
    assert "a<b>" not in page
    assert "a&lt;b&gt;" in page
