// The elementary functions under a sanitizer: each set of instructions, every length of array in memory of exactly that
// length, all exponents and what is no number, and several threads at once. It checks what a sanitizer cannot only
// loosely; tests/engine/test_math.py counts units in the last place.

#include <cmath>
#include <cstdio>
#include <limits>
#include <thread>
#include <vector>

#include "../isa.hpp"

namespace thalweg {
namespace {

template <class T>
std::vector<T> numbers() {
  using Limits = std::numeric_limits<T>;
  std::vector<T> x{0, 1, Limits::infinity(), Limits::quiet_NaN(), Limits::max(), Limits::denorm_min()};
  for (int e = Limits::min_exponent - Limits::digits; e < Limits::max_exponent; e += 3)
    x.push_back(std::ldexp(T(1.37), e));
  for (std::size_t i = 0, n = x.size(); i < n; ++i) x.push_back(-x[i]);
  return x;
}

template <class T>
bool close(T a, T b) {
  using Limits = std::numeric_limits<T>;
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b || std::abs(a - b) <= 8 * Limits::epsilon() * std::abs(b) + Limits::min();
}

template <class T>
struct Table {
  void (*unary)(Unary, const T*, T*, std::size_t);
  void (*binary)(Binary, const T*, const T*, T*, std::size_t);
};

// Whether each function is the same at every place of every array, and what the C library has for three and for those of
// two numbers.
template <class T>
bool right(Table<T> table) {
  const std::vector<T> all = numbers<T>();
  bool ok = true;
  for (int f = 0; f <= static_cast<int>(Unary::round_); ++f) {
    std::vector<T> whole(all.size());
    table.unary(static_cast<Unary>(f), all.data(), whole.data(), all.size());
    for (std::size_t n = 0; n < 70; ++n) {
      const std::vector<T> x(all.end() - static_cast<std::ptrdiff_t>(n), all.end());
      std::vector<T> y(n);
      table.unary(static_cast<Unary>(f), x.data(), y.data(), n);
      for (std::size_t i = 0; i < n; ++i) ok &= close(y[i], whole[all.size() - n + i]);
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (f == static_cast<int>(Unary::exp_)) ok &= close(whole[i], std::exp(all[i]));
      if (f == static_cast<int>(Unary::tanh_)) ok &= close(whole[i], std::tanh(all[i]));
      if (f == static_cast<int>(Unary::sin_)) ok &= close(whole[i], std::sin(all[i]));
    }
  }
  for (T second : all) {
    const std::vector<T> y(all.size(), second);
    const auto made = [&](Binary function) {
      std::vector<T> out(all.size());
      table.binary(function, all.data(), y.data(), out.data(), all.size());
      return out;
    };
    const std::vector<T> power = made(Binary::pow_), rest = made(Binary::fmod_), angle = made(Binary::atan2_);
    for (std::size_t i = 0; i < all.size(); ++i)
      ok &= close(power[i], std::pow(all[i], second)) && close(rest[i], std::fmod(all[i], second)) &&
            close(angle[i], std::atan2(all[i], second));
  }
  return ok;
}

}  // namespace
}  // namespace thalweg

int main() {
  using namespace thalweg;
  int failures = 0;
  for (const Isa* isa : available()) {
    bool ok[4] = {};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&ok, i, isa] {
        ok[i] = right<float>({isa->unary_float, isa->binary_float}) && right<double>({isa->unary_double, isa->binary_double});
      });
    for (std::thread& thread : threads) thread.join();
    const bool all = ok[0] && ok[1] && ok[2] && ok[3];
    std::printf("maths, %s: %s\n", isa->name, all ? "right" : "WRONG");
    failures += !all;
  }
  return failures;
}
