// What the loop in Python asks for, under a sanitizer: each set of instructions, every number of rows and entries in memory
// of exactly that size, beside plain loops. tests/loop/test_compiled.py compares whole solves.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "../isa.hpp"

namespace thalweg {
namespace {

template <class T>
bool close(T a, T b) {
  return std::abs(a - b) <= T(1e-5) * (T(1) + std::abs(b));
}

template <class T>
std::vector<T> numbers(std::size_t n, double start) {
  std::vector<T> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<T>(std::sin(start + 1.7 * static_cast<double>(i)));
  return x;
}

template <class T>
bool right(const Sums<T>& sums, std::size_t rows, std::size_t entries) {
  const std::size_t n = rows * entries;
  const std::vector<T> stages = numbers<T>(3 * n, 1), y = numbers<T>(n, 2), z = numbers<T>(n, 3);
  const std::vector<T> weights{T(0.5), T(0), T(-2)};
  const std::vector<double> h = numbers<double>(rows, 4);
  std::vector<T> sizes(n), out(n), x = stages;
  x.resize(n);
  sums.spread(h.data(), rows, entries, sizes.data());
  bool ok = true;
  for (const bool own : {false, true})
    for (const bool based : {false, true}) {
      sums.sum_stages(stages.data(), n, weights.data(), 3, based ? y.data() : nullptr, own ? sizes.data() : nullptr, T(0.1),
                      out.data());
      for (std::size_t i = 0; i < n; ++i) {
        const T sum = T(0.5) * stages[i] - T(2) * stages[2 * n + i], size = own ? static_cast<T>(h[i / entries]) : T(0.1);
        ok &= close(out[i], (based ? y[i] : T(0)) + size * sum);
      }
    }
  const std::vector<double> t = numbers<double>(rows, 5), c{0.5, 1.0};
  std::vector<T> times(2 * rows);
  sums.stage_times(t.data(), h.data(), c.data(), 2, rows, times.data());
  for (std::size_t r = 0; r < rows; ++r)
    ok &= close(times[r], static_cast<T>(t[r] + 0.5 * h[r])) && close(times[rows + r], static_cast<T>(t[r] + h[r]));
  std::vector<double> found(rows);
  sums.measure(x.data(), y.data(), z.data(), T(0.01), T(0.1), rows, entries, found.data());
  for (std::size_t r = 0; r < rows; ++r) {
    double total = 0;
    for (std::size_t i = r * entries; i < (r + 1) * entries; ++i)
      total += std::pow(stages[i] / (0.01 + 0.1 * std::fmax(std::abs(y[i]), std::abs(z[i]))), 2);
    ok &= close(found[r], std::sqrt(total / static_cast<double>(entries)));
  }
  return ok;
}

// Rows that accept, reject, end, fail or have ended already, one after the other.
bool settles(const Isa& isa, std::size_t rows) {
  std::vector<double> t(rows, 1.0), h(rows, 0.5), error(rows), goal(rows, 9.0), floor(rows, 1e-9), limit(rows, 10.0);
  std::vector<double> t_next(rows), h_next(rows), limit_next(rows), h_tried(rows);
  std::vector<std::uint8_t> lands(rows), running(rows, 1), accept(rows), runs_on(rows), stuck(rows), lands_next(rows);
  std::vector<std::int64_t> n_steps(rows), nfev(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t kind = r % 5;
    error[r] = kind == 1 ? 32.0 : kind == 4 ? std::nan("") : 1.0 / 32;
    if (kind == 2) lands[r] = 1, goal[r] = 1.5;
    if (kind == 3) running[r] = 0;
    if (kind == 4) h[r] = 1e-10;
  }
  const Settling step{0.9,           0.2,           10.0,          -0.2,           2e-15,          1e-6,          6,
                      t.data(),      h.data(),      error.data(),  goal.data(),    h.data(),       floor.data(),  limit.data(),
                      lands.data(),  running.data(), t_next.data(), h_next.data(), limit_next.data(), h_tried.data(),
                      accept.data(), runs_on.data(), stuck.data(), lands_next.data(), n_steps.data(), nfev.data()};
  const Settled found = isa.settle(step, rows);
  bool ok = found.failing == (rows > 4);
  std::size_t going = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t kind = r % 5;
    const double factor = kind == 1 ? 0.45 : kind == 4 ? 0.2 : 1.8;
    ok &= accept[r] == (kind == 0 || kind == 2) && runs_on[r] == (kind != 2 && kind != 3) && stuck[r] == (kind == 4);
    going += runs_on[r];
    ok &= close(t_next[r], accept[r] ? 1.5 : 1.0) && close(h_next[r], kind == 3 ? h[r] : h[r] * factor);
    ok &= n_steps[r] == running[r] && nfev[r] == 6 * running[r] && limit_next[r] == (error[r] <= 1 ? 10.0 : 1.0);
  }
  return ok && found.going == going;
}

bool right(const Isa& isa) {
  bool ok = true;
  for (std::size_t rows = 1; rows < 40; rows += rows < 12 ? 1 : 7)
    for (std::size_t entries = 1; entries < 20; ++entries)
      ok &= right(isa.sums_float, rows, entries) && right(isa.sums_double, rows, entries);
  for (std::size_t rows = 0; rows < 40; ++rows) ok &= settles(isa, rows);
  return ok;
}

}  // namespace
}  // namespace thalweg

int main() {
  bool ok = true;
  for (const thalweg::Isa* isa : thalweg::available()) {
    const bool right = thalweg::right(*isa);
    std::printf("%s: sums and settling %s\n", isa->name, right ? "right" : "WRONG");
    ok &= right;
  }
  return ok ? 0 : 1;
}
