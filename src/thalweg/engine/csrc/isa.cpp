// The whole engine for one set of instructions, THALWEG_ISA, in the namespace of that name.

#include "isa.hpp"

#include "backward.hpp"
#include "math.hpp"
#include "simd.hpp"

#define THALWEG_STRING_(x) #x
#define THALWEG_STRING(x) THALWEG_STRING_(x)

namespace thalweg::THALWEG_ISA {
namespace {

template <class T, class F>
void map(const T* in, T* out, std::size_t n, F f) {
  constexpr std::size_t lanes = Vec<T>::lanes;
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) f(Vec<T>::load(in + i)).store(out + i);
  if (i < n) {
    T rest[lanes] = {};
    for (std::size_t j = i; j < n; ++j) rest[j - i] = in[j];
    f(Vec<T>::load(rest)).store(rest);
    for (std::size_t j = i; j < n; ++j) out[j] = rest[j - i];
  }
}

template <class T>
void unary(Unary function, const T* in, T* out, std::size_t n) {
  switch (function) {
#define X(name)        \
  case Unary::name##_: \
    return map(in, out, n, [](Vec<T> x) { return name(x); });
    THALWEG_UNARY(X)
#undef X
  }
}

}  // namespace

extern constinit const Isa isa{THALWEG_STRING(THALWEG_ISA), unary<float>, unary<double>, solve_explicit<float>,
                               solve_explicit<double>};

}  // namespace thalweg::THALWEG_ISA
