// Where the time of a step goes, if it is compiled with -DCLOCKED (benchmarks/floor.py); else nothing is measured.

#pragma once

namespace {
enum Part { PRODUCTS, ATTENTION, NORMS, GATE, LOSS, EMBEDDING, SUMS, PARTS };
}

#ifdef CLOCKED
#include <chrono>

extern "C" {
double part_seconds[PARTS];  // of one thread
}

namespace {
struct Clock {
    const Part part;
    const std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
    explicit Clock(Part part) : part(part) {}
    ~Clock() { part_seconds[part] += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); }
};
}  // namespace
#else
namespace {
struct Clock {
    explicit Clock(Part) {}
};
}  // namespace
#endif
