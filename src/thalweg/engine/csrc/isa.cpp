// The whole engine for one set of instructions, THALWEG_ISA, in the namespace of that name.

#include "isa.hpp"

#include "backward.hpp"
#include "math.hpp"
#include "rosenbrock.hpp"
#include "simd.hpp"
#include "sums.hpp"

#define THALWEG_STRING_(x) #x
#define THALWEG_STRING(x) THALWEG_STRING_(x)

namespace thalweg::THALWEG_ISA {
namespace {

// out = f of as many numbers of each input, the last ones through a buffer.
template <class T, class F, class... In>
void map(T* out, std::size_t n, F f, const In*... in) {
  constexpr std::size_t lanes = Vec<T>::lanes;
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) f(Vec<T>::load(in + i)...).store(out + i);
  if (i == n) return;
  const auto last = [&](const T* x) {
    T buffer[lanes] = {};
    for (std::size_t j = i; j < n; ++j) buffer[j - i] = x[j];
    return Vec<T>::load(buffer);
  };
  const Vec<T> y = f(last(in)...);
  for (std::size_t j = i; j < n; ++j) out[j] = y[j - i];
}

template <class T>
void unary(Unary function, const T* in, T* out, std::size_t n) {
  switch (function) {
#define X(name)        \
  case Unary::name##_: \
    return map(out, n, [](Vec<T> x) { return name(x); }, in);
    THALWEG_UNARY(X)
#undef X
  }
}

template <class T>
void binary(Binary function, const T* first, const T* second, T* out, std::size_t n) {
  switch (function) {
#define X(name)         \
  case Binary::name##_: \
    return map(out, n, [](Vec<T> x, Vec<T> y) { return name(x, y); }, first, second);
    THALWEG_BINARY(X)
#undef X
  }
}

#ifdef THALWEG_NARROWER
constexpr const Isa* narrower = &THALWEG_NARROWER::isa;
#else
constexpr const Isa* narrower = nullptr;
#endif
#ifdef THALWEG_WIDER
constexpr const Isa* wider = &THALWEG_WIDER::isa;
#else
constexpr const Isa* wider = nullptr;
#endif

}  // namespace

extern constinit const Isa isa{THALWEG_STRING(THALWEG_ISA), lanes<float>,            lanes<double>,
                               narrower,                    wider,                   unary<float>,
                               unary<double>,               binary<float>,           binary<double>,
                               solve_explicit<float>,       solve_explicit<double>,  solve_rosenbrock<float>,
                               solve_rosenbrock<double>,
                               {sum_stages<float>, measure<float>, spread<float>, stage_times<float>},
                               {sum_stages<double>, measure<double>, spread<double>, stage_times<double>},
                               settle};

}  // namespace thalweg::THALWEG_ISA
