// Vec<T>: as many numbers as a register holds, T float or double; Mask<T>: which of them.
//
// On the vector extensions of GCC and Clang, with intrinsics only where these have no word. Comparisons are false for
// NaN; min and max give NaN where either is NaN, as PyTorch's do.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __x86_64__
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define THALWEG_INLINE [[gnu::always_inline]] inline
#define THALWEG_INLINE_LAMBDA __attribute__((always_inline))  // after its parameters

namespace thalweg::THALWEG_ISA {

#if defined(__AVX512F__)
inline constexpr std::size_t register_bytes = 64;
#elif defined(__AVX2__)
inline constexpr std::size_t register_bytes = 32;
#else
inline constexpr std::size_t register_bytes = 16;
#endif

template <class T>
struct Raw;
template <>
struct Raw<float> {
  using Integer = std::int32_t;
  typedef float Floats __attribute__((vector_size(register_bytes)));
  typedef std::int32_t Integers __attribute__((vector_size(register_bytes)));
  typedef std::uint32_t Unsigned __attribute__((vector_size(register_bytes)));
};
template <>
struct Raw<double> {
  using Integer = std::int64_t;
  typedef double Floats __attribute__((vector_size(register_bytes)));
  typedef std::int64_t Integers __attribute__((vector_size(register_bytes)));
  typedef std::uint64_t Unsigned __attribute__((vector_size(register_bytes)));
};

template <class T>
struct Mask {
  using Integers = typename Raw<T>::Integers;
  Integers v;  // all bits of a lane, or none

  THALWEG_INLINE Mask operator&(Mask b) const { return {v & b.v}; }
  THALWEG_INLINE Mask operator|(Mask b) const { return {v | b.v}; }
  THALWEG_INLINE Mask operator^(Mask b) const { return {v ^ b.v}; }
  THALWEG_INLINE Mask operator~() const { return {~v}; }
};

// The integers of a float's bits.
template <class T>
struct Bits {
  using Integer = typename Raw<T>::Integer;
  using Integers = typename Raw<T>::Integers;
  using Unsigned = typename Raw<T>::Unsigned;
  Integers v;

  Bits() = default;
  THALWEG_INLINE Bits(Integers raw) : v(raw) {}
  THALWEG_INLINE Bits(Integer x) : v(Integers{} + x) {}

  THALWEG_INLINE Bits operator&(Bits b) const { return v & b.v; }
  THALWEG_INLINE Bits operator|(Bits b) const { return v | b.v; }
  THALWEG_INLINE Bits operator^(Bits b) const { return v ^ b.v; }
  // Sums wrap round; on the right, zeros come from the left: processors before AVX-512 have no other shift of 64 bits.
  THALWEG_INLINE Bits operator+(Bits b) const { return Integers((Unsigned)v + (Unsigned)b.v); }
  THALWEG_INLINE Bits operator-(Bits b) const { return Integers((Unsigned)v - (Unsigned)b.v); }
  THALWEG_INLINE Bits operator<<(int n) const { return Integers((Unsigned)v << n); }
  THALWEG_INLINE Bits operator>>(int n) const { return Integers((Unsigned)v >> n); }
  THALWEG_INLINE Mask<T> operator==(Bits b) const { return {v == b.v}; }
};

template <class T>
struct Vec {
  using Scalar = T;
  using Floats = typename Raw<T>::Floats;
  static constexpr std::size_t lanes = register_bytes / sizeof(T);
  Floats v;

  Vec() = default;
  THALWEG_INLINE Vec(Floats raw) : v(raw) {}
  THALWEG_INLINE Vec(T x) : v(x - Floats{}) {}  // not Floats{} + x, which is 0 where x is -0, and hence an addition

  THALWEG_INLINE static Vec load(const T* p) {
    Vec r;
    std::memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  THALWEG_INLINE void store(T* p) const { std::memcpy(p, &v, sizeof v); }
  // p is a multiple of register_bytes.
  THALWEG_INLINE static Vec load_aligned(const T* p) { return *reinterpret_cast<const Floats*>(p); }
  THALWEG_INLINE void store_aligned(T* p) const { *reinterpret_cast<Floats*>(p) = v; }

  THALWEG_INLINE T operator[](std::size_t lane) const { return v[lane]; }

  THALWEG_INLINE Vec operator-() const { return -v; }
  THALWEG_INLINE Vec operator+(Vec b) const { return v + b.v; }
  THALWEG_INLINE Vec operator-(Vec b) const { return v - b.v; }
  THALWEG_INLINE Vec operator*(Vec b) const { return v * b.v; }
  THALWEG_INLINE Vec operator/(Vec b) const { return v / b.v; }
  THALWEG_INLINE Vec& operator+=(Vec b) { return v += b.v, *this; }
  THALWEG_INLINE Vec& operator-=(Vec b) { return v -= b.v, *this; }
  THALWEG_INLINE Vec& operator*=(Vec b) { return v *= b.v, *this; }
  THALWEG_INLINE Vec& operator/=(Vec b) { return v /= b.v, *this; }
  THALWEG_INLINE friend Vec operator+(T a, Vec b) { return Vec(a) + b; }
  THALWEG_INLINE friend Vec operator-(T a, Vec b) { return Vec(a) - b; }
  THALWEG_INLINE friend Vec operator*(T a, Vec b) { return Vec(a) * b; }
  THALWEG_INLINE friend Vec operator/(T a, Vec b) { return Vec(a) / b; }

  THALWEG_INLINE Mask<T> operator<(Vec b) const { return {v < b.v}; }
  THALWEG_INLINE Mask<T> operator<=(Vec b) const { return {v <= b.v}; }
  THALWEG_INLINE Mask<T> operator>(Vec b) const { return {v > b.v}; }
  THALWEG_INLINE Mask<T> operator>=(Vec b) const { return {v >= b.v}; }
  THALWEG_INLINE Mask<T> operator==(Vec b) const { return {v == b.v}; }
  THALWEG_INLINE Mask<T> operator!=(Vec b) const { return {v != b.v}; }
};

template <class T>
THALWEG_INLINE Bits<T> bits(Vec<T> x) {
  return (typename Raw<T>::Integers)x.v;
}

template <class T>
THALWEG_INLINE Vec<T> from_bits(Bits<T> x) {
  return (typename Raw<T>::Floats)x.v;
}

template <class T>
THALWEG_INLINE Bits<T> bits(Mask<T> m) {
  return m.v;
}

// a where the mask holds, else b.
template <class T>
THALWEG_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) {
  return m.v ? a.v : b.v;
}
template <class T>
THALWEG_INLINE Vec<T> select(Mask<T> m, Vec<T> a, T b) {
  return select(m, a, Vec<T>(b));
}
template <class T>
THALWEG_INLINE Vec<T> select(Mask<T> m, T a, Vec<T> b) {
  return select(m, Vec<T>(a), b);
}

// One bit for each lane, the first lowest; there is room for those of several registers.
template <class T>
THALWEG_INLINE std::uint64_t lanes_of(Mask<T> m) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_movepi32_mask((__m512i)m.v);
  else
    return _mm512_movepi64_mask((__m512i)m.v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return static_cast<unsigned>(_mm256_movemask_ps((__m256)m.v));
  else
    return static_cast<unsigned>(_mm256_movemask_pd((__m256d)m.v));
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4)
    return static_cast<unsigned>(_mm_movemask_ps((__m128)m.v));
  else
    return static_cast<unsigned>(_mm_movemask_pd((__m128d)m.v));
#else
  std::uint64_t lanes = 0;
  for (std::size_t i = 0; i < Vec<T>::lanes; ++i) lanes |= static_cast<std::uint64_t>(m.v[i] ? 1 : 0) << i;
  return lanes;
#endif
}

template <class T>
THALWEG_INLINE bool any(Mask<T> m) {
  return lanes_of(m) != 0;
}
template <class T>
THALWEG_INLINE bool all(Mask<T> m) {
  return !any(~m);
}

template <class T>
inline constexpr typename Raw<T>::Integer sign_bit = typename Raw<T>::Integer(1) << (sizeof(T) * 8 - 1);

template <class T>
THALWEG_INLINE Vec<T> abs(Vec<T> x) {
  return from_bits<T>(bits(x) & Bits<T>(~sign_bit<T>));
}

// The magnitude of x with the sign of s.
template <class T>
THALWEG_INLINE Vec<T> copysign(Vec<T> x, Vec<T> s) {
  return from_bits<T>((bits(x) & Bits<T>(~sign_bit<T>)) | (bits(s) & Bits<T>(sign_bit<T>)));
}

// x, which is not below 0, with the sign of s.
template <class T>
THALWEG_INLINE Vec<T> with_sign(Vec<T> x, Vec<T> s) {
  return from_bits<T>(bits(x) | (bits(s) & Bits<T>(sign_bit<T>)));
}

template <class T>
THALWEG_INLINE Mask<T> isnan(Vec<T> x) {
  return x != x;
}

// a where it is the smaller (larger), else b: b too where either is NaN. One instruction, which compilers do not find.
template <class T>
THALWEG_INLINE Vec<T> smaller_or(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_min_ps(a.v, b.v);
  else
    return _mm512_min_pd(a.v, b.v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_min_ps(a.v, b.v);
  else
    return _mm256_min_pd(a.v, b.v);
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4)
    return _mm_min_ps(a.v, b.v);
  else
    return _mm_min_pd(a.v, b.v);
#else
  return select(a < b, a, b);
#endif
}
template <class T>
THALWEG_INLINE Vec<T> larger_or(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_max_ps(a.v, b.v);
  else
    return _mm512_max_pd(a.v, b.v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_max_ps(a.v, b.v);
  else
    return _mm256_max_pd(a.v, b.v);
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4)
    return _mm_max_ps(a.v, b.v);
  else
    return _mm_max_pd(a.v, b.v);
#else
  return select(a > b, a, b);
#endif
}

template <class T>
THALWEG_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return select(isnan(a), a, smaller_or(a, b));
}
template <class T>
THALWEG_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return select(isnan(a), a, larger_or(a, b));
}

// x within bounds, which are numbers; NaN stays NaN.
template <class T>
THALWEG_INLINE Vec<T> at_least(Vec<T> x, T bound) {
  return larger_or(Vec<T>(bound), x);
}
template <class T>
THALWEG_INLINE Vec<T> at_most(Vec<T> x, T bound) {
  return smaller_or(Vec<T>(bound), x);
}
template <class T>
THALWEG_INLINE Vec<T> clamp(Vec<T> x, T low, T high) {
  return at_most(at_least(x, low), high);
}

// a b + c and c - a b: rounded once where the processor has the instruction, else twice. They are written where they are
// meant, for compilers that fuse what else is a product and a sum do so in one register of a row and not in the next.
template <class T>
THALWEG_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_fmadd_ps(a.v, b.v, c.v);
  else
    return _mm512_fmadd_pd(a.v, b.v, c.v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_fmadd_ps(a.v, b.v, c.v);
  else
    return _mm256_fmadd_pd(a.v, b.v, c.v);
#elif defined(__aarch64__)
  if constexpr (sizeof(T) == 4)
    return (typename Vec<T>::Floats)vfmaq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v);
  else
    return (typename Vec<T>::Floats)vfmaq_f64((float64x2_t)c.v, (float64x2_t)a.v, (float64x2_t)b.v);
#else
  return a * b + c;
#endif
}
template <class T>
THALWEG_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_fnmadd_ps(a.v, b.v, c.v);
  else
    return _mm512_fnmadd_pd(a.v, b.v, c.v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_fnmadd_ps(a.v, b.v, c.v);
  else
    return _mm256_fnmadd_pd(a.v, b.v, c.v);
#else
  return fma(-a, b, c);
#endif
}

template <class T>
THALWEG_INLINE Vec<T> sqrt(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_sqrt_ps(x.v);
  else
    return _mm512_sqrt_pd(x.v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_sqrt_ps(x.v);
  else
    return _mm256_sqrt_pd(x.v);
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4)
    return _mm_sqrt_ps(x.v);
  else
    return _mm_sqrt_pd(x.v);
#else
  Vec<T> r;
  for (std::size_t i = 0; i < Vec<T>::lanes; ++i)
    r.v[i] = sizeof(T) == 4 ? __builtin_sqrtf(x[i]) : __builtin_sqrt(x[i]);
  return r;
#endif
}

// A number whose last bit is worth 1: to add it is to round to an integer, which is then in its lowest bits.
template <class T>
inline constexpr T rounder = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);  // 1.5 * 2^23, 1.5 * 2^52

// To the nearest integer, ties to the even one.
template <class T>
THALWEG_INLINE Vec<T> round(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  else
    return _mm512_roundscale_pd(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  else
    return _mm256_round_pd(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  // From here on every number is an integer, and below it a sum with it is rounded to one.
  constexpr T large = sizeof(T) == 4 ? T(8388608.0) : T(4503599627370496.0);
  const Vec<T> size = abs(x), rounded = (size + large) - large;
  return select(size < large, copysign(rounded, x), x);
#endif
}

template <class T>
THALWEG_INLINE Vec<T> floor(Vec<T> x) {
  const Vec<T> rounded = round(x);
  return copysign(select(rounded > x, rounded - T(1), rounded), x);
}

// Towards zero.
template <class T>
THALWEG_INLINE Vec<T> trunc(Vec<T> x) {
  return copysign(floor(abs(x)), x);
}

// As many numbers as a register of doubles holds, as doubles, from or to those of T.
template <class T>
THALWEG_INLINE Vec<double> load_wide(const T* p) {
  if constexpr (sizeof(T) == 8) {
    return Vec<double>::load(p);
  } else {
    typedef T Few __attribute__((vector_size(register_bytes / 2)));
    Few few;
    std::memcpy(&few, p, sizeof few);
    return __builtin_convertvector(few, Raw<double>::Floats);
  }
}
template <class T>
THALWEG_INLINE void store_narrow(Vec<double> x, T* p) {
  if constexpr (sizeof(T) == 8) {
    x.store(p);
  } else {
    typedef T Few __attribute__((vector_size(register_bytes / 2)));
    const Few few = __builtin_convertvector(x.v, Few);
    std::memcpy(p, &few, sizeof few);
  }
}

// Two registers side by side, or two pairs: for a function of many steps, each of which waits for the one before. A
// processor looks ahead at some hundred instructions, and finds more to do between the steps of four registers than in
// four such functions, one after the other. Each register holds what it would alone.
template <class V>
struct Pair {
  using Scalar = typename V::Scalar;
  V first, second;

  THALWEG_INLINE Pair(V a, V b) : first(a), second(b) {}
  template <class T>
  THALWEG_INLINE explicit Pair(T x) : first(x), second(x) {}

  THALWEG_INLINE Pair operator+(const Pair& b) const { return {first + b.first, second + b.second}; }
  THALWEG_INLINE Pair operator-(const Pair& b) const { return {first - b.first, second - b.second}; }
  THALWEG_INLINE Pair operator*(const Pair& b) const { return {first * b.first, second * b.second}; }
  THALWEG_INLINE Pair operator/(const Pair& b) const { return {first / b.first, second / b.second}; }
};

template <class V>
THALWEG_INLINE Pair<V> fma(const Pair<V>& a, const Pair<V>& b, const Pair<V>& c) {
  return {fma(a.first, b.first, c.first), fma(a.second, b.second, c.second)};
}
template <class V>
THALWEG_INLINE Pair<V> fnma(const Pair<V>& a, const Pair<V>& b, const Pair<V>& c) {
  return {fnma(a.first, b.first, c.first), fnma(a.second, b.second, c.second)};
}
template <class V>
THALWEG_INLINE Pair<V> abs(const Pair<V>& x) {
  return {abs(x.first), abs(x.second)};
}
template <class V>
THALWEG_INLINE Pair<V> with_sign(const Pair<V>& x, const Pair<V>& s) {
  return {with_sign(x.first, s.first), with_sign(x.second, s.second)};
}
template <class V, class T>
THALWEG_INLINE Pair<V> at_most(const Pair<V>& x, T bound) {
  return {at_most(x.first, bound), at_most(x.second, bound)};
}

}  // namespace thalweg::THALWEG_ISA
