// Elementary functions of Vec<T>: within 4 units in the last place of the exact value, and as C's are at zeros,
// infinities, NaN, where they overflow and among subnormal numbers. gelu, gelu_tanh and silu are their formulas, as
// exact as these where they cancel.
//
// Most are written for both types over `Constants<T>`, without branches but for what is rare. Coefficients are minimax
// fits (Remez), found in 40 digits; each polynomial says what of. Splits of ln 2 and π/2 have zeros at the end of each
// part but the last, so that its product with a small integer is exact without a fused multiply-add too.

#pragma once

#include <limits>

#include "simd.hpp"
#include "special.hpp"

namespace thalweg::THALWEG_ISA {

// The first `count` of c[first] + c[first + 1] x + …, where powers are x, x^2, x^4, …
template <int first, int count, class T, std::size_t n, std::size_t levels>
THALWEG_INLINE Vec<T> polynomial_part(const T (&c)[n], const Vec<T> (&powers)[levels]) {
  if constexpr (count == 1) {
    return c[first];
  } else {
    constexpr int level = count > 8 ? 3 : count > 6 ? 2 : count > 2 ? 1 : 0, half = 1 << level;
    return fma(polynomial_part<first + half, count - half>(c, powers), powers[level],
               polynomial_part<first, half>(c, powers));
  }
}

// c[0] + c[1] x + c[2] x^2 + …, up to 16 coefficients, by Estrin's scheme: halves at the same time, for a processor
// that would else wait for each product.
template <class T, class... C>
THALWEG_INLINE Vec<T> polynomial(Vec<T> x, C... coefficients) {
  const T c[] = {coefficients...};
  const Vec<T> x2 = x * x, x4 = x2 * x2, x8 = x4 * x4, powers[] = {x, x2, x4, x8};
  return polynomial_part<0, sizeof...(C)>(c, powers);
}

template <class T>
struct Constants;

template <>
struct Constants<float> {
  static constexpr int mantissa_bits = 23, bias = 127;
  static constexpr float infinity = __builtin_inff(), nan = __builtin_nanf("");
  static constexpr float least_normal = 0x1p-126f;
  static constexpr float ln2_high = 0x1.62ep-1f, ln2_low = 0x1.0bfbe8p-15f;
  // e^x is 0 below and infinite above.
  static constexpr float exp_low = -104.0f, exp_high = 89.0f;
  // and a normal number up to here, either way.
  static constexpr float exp_usual = 87.0f;
  static constexpr float half_pi[] = {0x1.921p+0f, 0x1.f6ap-13f, 0x1.11p-26f, 0x1.68c234p-39f};
  // Up to here these parts bring an angle into [-π/4, π/4].
  static constexpr float largest_angle = 3000.0f;

  // (e^r - 1 - r) / r^2 for |r| <= ln(2)/2, to 2^-26 of e^r - 1
  THALWEG_INLINE static Vec<float> exp_rest(Vec<float> r) {
    return polynomial(r, 0.5f, 0.1666654348373413f, 0.04166628047823906f, 0.008366591297090054f,
                      0.0013946470571681857f);
  }
  // (atan z - z) / z^3, u = z^2, for |z| <= tan(π/8), to 2^-30 of the angle
  THALWEG_INLINE static Vec<float> atan_rest(Vec<float> u) {
    return polynomial(u, -0.33333316445350647f, 0.19998487830162048f, -0.14243824779987335f, 0.10595820099115372f,
                      -0.06082971394062042f);
  }
  // (log((1 + s)/(1 - s)) - 2s) / s^3, z = s^2, for |s| <= (√2 - 1)/(√2 + 1), to 2^-30 of the logarithm
  THALWEG_INLINE static Vec<float> log_rest(Vec<float> z) {
    return polynomial(z, 0.6666677594184875f, 0.39977535605430603f, 0.29871866106987f);
  }
  // (sin r - r) / r^3 and (cos r - 1 + r^2/2) / r^4, z = r^2, for |r| <= π/4, to 2^-28 and 2^-33
  THALWEG_INLINE static Vec<float> sin_rest(Vec<float> z) {
    return polynomial(z, -0.16666655242443085f, 0.008332155644893646f, -0.0001951463200384751f);
  }
  THALWEG_INLINE static Vec<float> cos_rest(Vec<float> z) {
    return polynomial(z, 0.04166664555668831f, -0.0013887310633435845f, 2.4432441932731308e-05f);
  }
};

template <>
struct Constants<double> {
  static constexpr int mantissa_bits = 52, bias = 1023;
  static constexpr double infinity = __builtin_inf(), nan = __builtin_nan("");
  static constexpr double least_normal = 0x1p-1022;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double exp_low = -746.0, exp_high = 710.0, exp_usual = 708.0;
  static constexpr double half_pi[] = {0x1.921fb5444p+0, 0x1.68c234c4cp-39, 0x1.98a2e03707345p-77};
  static constexpr double largest_angle = 100000.0;

  // to 2^-61
  THALWEG_INLINE static Vec<double> exp_rest(Vec<double> r) {
    return polynomial(r, 0.5, 0.16666666666666677, 0.0416666666666667, 0.008333333333321606, 0.0013888888888866704,
                      0.00019841269886183786, 2.4801587360760932e-05, 2.7557244153580416e-06, 2.7557242623717186e-07,
                      2.5109055708740708e-08, 2.092447555638395e-09);
  }
  // to 2^-59
  THALWEG_INLINE static Vec<double> atan_rest(Vec<double> u) {
    return polynomial(u, -0.333333333333332, 0.19999999999954, -0.14285714280239592, 0.11111110785671656,
                      -0.09090897822526894, 0.07692061381182955, -0.06663117388565402, 0.058479865427857707,
                      -0.05039742273188198, 0.03807564021628327, -0.017919283992378753);
  }
  // to 2^-59
  THALWEG_INLINE static Vec<double> log_rest(Vec<double> z) {
    return polynomial(z, 0.6666666666666734, 0.399999999994143, 0.2857142874247897, 0.22222198563131837,
                      0.18183564883178302, 0.1531403543691255, 0.14796109336156382);
  }
  // to 2^-57 and 2^-63
  THALWEG_INLINE static Vec<double> sin_rest(Vec<double> z) {
    return polynomial(z, -0.1666666666666663, 0.008333333333322005, -0.00019841269829495276, 2.7557313587524598e-06,
                      -2.5050742291982796e-08, 1.5895903799114075e-10);
  }
  THALWEG_INLINE static Vec<double> cos_rest(Vec<double> z) {
    return polynomial(z, 0.041666666666666595, -0.0013888888888872895, 2.4801587288748115e-05, -2.7557314148596634e-07,
                      2.087569656835026e-09, -1.1358310251070424e-11);
  }
};

// x = whole + rest, whole the nearest integer, also as the lowest bits of `bits`. |x| is below 2^22 (2^51).
template <class T>
struct Rounded {
  Vec<T> whole;
  Bits<T> bits;

  THALWEG_INLINE explicit Rounded(Vec<T> x) {
    const Vec<T> shifted = x + rounder<T>;
    whole = shifted - rounder<T>;
    bits = THALWEG_ISA::bits(shifted);
  }
};

// 2^n for an integer n whose power is a normal number.
template <class T>
THALWEG_INLINE Vec<T> power_of_two(Bits<T> n) {
  return from_bits<T>((n + Bits<T>(Constants<T>::bias)) << Constants<T>::mantissa_bits);
}

// x 2^n, rounded once also where the result is subnormal: by two halves of n, each a normal power.
template <class T>
THALWEG_INLINE Vec<T> scale(Vec<T> x, Vec<T> n) {
  const Rounded<T> half(n * T(0.5));
  const Rounded<T> other(n - half.whole);
  return x * power_of_two<T>(half.bits) * power_of_two<T>(other.bits);
}

// x = n ln 2 + r, n the nearest integer.
template <class T>
struct Reduced {
  Rounded<T> n;
  Vec<T> r;

  THALWEG_INLINE explicit Reduced(Vec<T> x) : n(x * T(1.44269504088896340736)) {
    r = fnma(n.whole, Vec<T>(Constants<T>::ln2_low), fnma(n.whole, Vec<T>(Constants<T>::ln2_high), x));
  }
};

// e^r - 1 for |r| <= ln(2)/2.
template <class T>
THALWEG_INLINE Vec<T> expm1_near_zero(Vec<T> r) {
  return fma(r * r, Constants<T>::exp_rest(r), r);
}

// e^(x + low), low far below the last place of 1.
template <class T>
THALWEG_INLINE Vec<T> exp_of_sum(Vec<T> x, Vec<T> low) {
  const Reduced<T> reduced(clamp(x, Constants<T>::exp_low, Constants<T>::exp_high));
  return scale(expm1_near_zero(reduced.r + low) + T(1), reduced.n.whole);
}

template <class T>
[[gnu::noinline, gnu::cold]] Vec<T> exp_anywhere(Vec<T> x) {
  return exp_of_sum(x, Vec<T>(T(0)));
}

template <class T>
THALWEG_INLINE Vec<T> exp(Vec<T> x) {
  if (!all(abs(x) < Constants<T>::exp_usual)) [[unlikely]]
    return exp_anywhere(x);
  const Reduced<T> reduced(x);
  return (expm1_near_zero(reduced.r) + T(1)) * power_of_two<T>(reduced.n.bits);
}

template <class T>
THALWEG_INLINE Vec<T> exp2(Vec<T> x) {
  using C = Constants<T>;
  x = clamp(x, T(-2 - C::bias - C::mantissa_bits), T(C::bias + 1));
  const Vec<T> n = Rounded<T>(x).whole;
  const Vec<T> r = (x - n) * T(0.693147180559945309417);
  return scale(expm1_near_zero(r) + T(1), n);
}

// (e^x - 1)/2 for x between -2 - mantissa_bits and exp_high; the half for the sake of the largest x.
template <class T>
THALWEG_INLINE Vec<T> half_expm1_within(Vec<T> x) {
  const Reduced<T> reduced(x);
  // 2^n (e^r - 1) + (2^n - 1)
  const Vec<T> half = power_of_two<T>(reduced.n.bits - Bits<T>(1));
  return fma(expm1_near_zero(reduced.r), half, half - T(0.5));
}

// Below it x is its own expm1 and log1p.
template <class T>
inline constexpr T tiny = T(0.25) / (std::int64_t(1) << Constants<T>::mantissa_bits);

template <class T>
THALWEG_INLINE Vec<T> expm1(Vec<T> x) {
  using C = Constants<T>;
  const Vec<T> y = half_expm1_within(clamp(x, T(-2 - C::mantissa_bits), C::exp_high)) * T(2);
  return select(abs(x) < tiny<T>, x, y);
}

// x = 2^exponent (1 + fraction), the fraction in [√½ - 1, √2 - 1), for finite x > 0.
template <class T>
struct Parted {
  Vec<T> exponent, fraction;

  THALWEG_INLINE explicit Parted(Vec<T> x) {
    using C = Constants<T>;
    using Integer = typename Raw<T>::Integer;
    constexpr Integer mantissa = (Integer(1) << C::mantissa_bits) - 1, one = Integer(C::bias) << C::mantissa_bits;
    constexpr Integer root_half = sizeof(T) == 4 ? Integer(0x3f3504f3) : Integer(0x3fe6a09e667f3bcd);
    constexpr T most = std::int64_t(1) << C::mantissa_bits, large = most * 2;
    const Mask<T> subnormal = x < C::least_normal;
    const Bits<T> shifted = bits(select(subnormal, x * large, x)) + Bits<T>(one - root_half);
    // The bits of an integer below `most` are those of the number most + integer.
    exponent = from_bits<T>((shifted >> C::mantissa_bits) | bits(Vec<T>(most))) -
               select(subnormal, T(most + C::bias + C::mantissa_bits + 1), Vec<T>(T(most + C::bias)));
    fraction = from_bits<T>((shifted & Bits<T>(mantissa)) + Bits<T>(root_half)) - T(1);
  }
};

// log(2^k (1 + f)) + low; after Tang, "Table-driven implementation of the logarithm function", as fdlibm arranges it.
template <class T>
THALWEG_INLINE Vec<T> log_of_parts(Vec<T> k, Vec<T> f, Vec<T> low) {
  using C = Constants<T>;
  const Vec<T> s = f / (f + T(2)), z = s * s, half_square = f * f * T(0.5);
  const Vec<T> rest = fma(s, fma(z, C::log_rest(z), half_square), fma(k, Vec<T>(C::ln2_low), low));
  return k * C::ln2_high - ((half_square - rest) - f);
}

// y where 0 < x < ∞, else what a logarithm is there.
template <class T>
THALWEG_INLINE Vec<T> log_at_the_ends(Vec<T> x, Vec<T> y) {
  using C = Constants<T>;
  if (!all((x > T(0)) & (x < C::infinity))) [[unlikely]] {
    y = select(x == C::infinity, x, y);
    y = select(x > T(0), y, select(x == T(0), -C::infinity, Vec<T>(C::nan)));
  }
  return y;
}

template <class T>
THALWEG_INLINE Vec<T> log(Vec<T> x) {
  const Parted<T> parts(x);
  return log_at_the_ends(x, log_of_parts(parts.exponent, parts.fraction, Vec<T>(T(0))));
}

template <class T>
THALWEG_INLINE Vec<T> log2(Vec<T> x) {
  const Parted<T> parts(x);
  const Vec<T> rest = log_of_parts(Vec<T>(T(0)), parts.fraction, Vec<T>(T(0)));
  return log_at_the_ends(x, fma(rest, Vec<T>(T(1.44269504088896340736)), parts.exponent));
}

template <class T>
THALWEG_INLINE Vec<T> log1p(Vec<T> x) {
  const Vec<T> u = x + T(1);
  // What u lost of 1 + x.
  const Vec<T> lost = select(x > T(1), T(1) - (u - x), x - (u - T(1)));
  const Parted<T> parts(u);
  const Vec<T> y = log_at_the_ends(u, log_of_parts(parts.exponent, parts.fraction, lost / u));
  return select(abs(x) < tiny<T>, x, y);
}

// Each lane where the mask holds, by the C library.
template <class T, class F>
[[gnu::noinline, gnu::cold]] Vec<T> patched(Mask<T> where, Vec<T> x, Vec<T> y, F f) {
  for (std::size_t i = 0; i < Vec<T>::lanes; ++i)
    if (where.v[i]) y.v[i] = f(x[i]);
  return y;
}

// sin(x + quarters π/2).
template <class T>
THALWEG_INLINE Vec<T> sine(Vec<T> x, int quarters) {
  using C = Constants<T>;
  const Rounded<T> n(x * T(0.636619772367581343076));
  Vec<T> r = x;
  for (T part : C::half_pi) r = fnma(n.whole, Vec<T>(part), r);
  const Vec<T> z = r * r;
  const Vec<T> sin = fma(r * z, C::sin_rest(z), r);
  const Vec<T> cos = fma(z * z, C::cos_rest(z), fnma(z, Vec<T>(T(0.5)), Vec<T>(T(1))));
  const Bits<T> quarter = n.bits + Bits<T>(quarters);
  const Vec<T> y = select((quarter & Bits<T>(1)) == Bits<T>(0), sin, cos);
  return from_bits<T>(bits(y) ^ ((quarter & Bits<T>(2)) << (sizeof(T) * 8 - 2)));
}

template <class T>
inline Vec<T> sin(Vec<T> x) {
  // Zero keeps its sign.
  Vec<T> y = select(x == T(0), x, sine(x, 0));
  const Mask<T> far = abs(x) > Constants<T>::largest_angle;
  if (any(far)) [[unlikely]]
    y = patched(far, x, y, [](T angle) { return sizeof(T) == 4 ? T(__builtin_sinf(angle)) : T(__builtin_sin(angle)); });
  return y;
}

template <class T>
inline Vec<T> cos(Vec<T> x) {
  Vec<T> y = sine(x, 1);
  const Mask<T> far = abs(x) > Constants<T>::largest_angle;
  if (any(far)) [[unlikely]]
    y = patched(far, x, y, [](T angle) { return sizeof(T) == 4 ? T(__builtin_cosf(angle)) : T(__builtin_cos(angle)); });
  return y;
}

// h/(1 + h), h = (e^(2|x|) - 1)/2, here and below; from 20 on (10 for floats) the answer is 1.
THALWEG_INLINE Vec<double> tanh(Vec<double> x) {
  const Vec<double> within = at_most(abs(x), 20.0), half = half_expm1_within(within + within);
  return with_sign(half / (half + 1.0), x);
}

// 2^n, where n + 127 is in the last bits of a float.
THALWEG_INLINE Vec<float> power_in_last_bits(Vec<float> x) { return from_bits<float>(bits(x) << 23); }
template <class V>
THALWEG_INLINE Pair<V> power_in_last_bits(const Pair<V>& x) {
  return {power_in_last_bits(x.first), power_in_last_bits(x.second)};
}

// The commonest activation, so with what a float can spare left out: |x| = n ln(2)/2 + r with ln 2 in one part, for
// where n is above 2 the answer hardly moves, and h from the polynomial of (e^(2r) - 1)/2, to 2^-26. What rounds to n
// leaves n + 127 in the last bits, which is the exponent of 2^n. V: a register of floats, or several.
template <class V>
THALWEG_INLINE V tanh_of_floats(const V& x) {
  constexpr float biased = rounder<float> + 127.0f;
  const V within = at_most(abs(x), 10.0f);
  const V shifted = fma(within, V(2.885390081777926814f), V(biased));
  const V r = fnma(shifted - V(biased), V(0.346573590279972654f), within), power = power_in_last_bits(shifted);
  V half = fma(V(0.0446287058293819f), r, V(0.13386546075344086f));
  half = fma(half, r, V(0.33333024382591248f));
  half = fma(half, r, V(0.6666617393493652f));
  half = fma(half, r, V(1.0f));
  half = fma(half, r * r, r);
  const V less = fma(power, V(0.5f), V(-0.5f));
  half = fma(half, power, less);
  return with_sign(half / (half + V(1.0f)), x);
}
THALWEG_INLINE Vec<float> tanh(Vec<float> x) { return tanh_of_floats(x); }
template <class V>
THALWEG_INLINE Pair<V> tanh(const Pair<V>& x) {
  if constexpr (sizeof(typename V::Scalar) == sizeof(float))
    return tanh_of_floats(x);
  else
    return {tanh(x.first), tanh(x.second)};
}

template <class T>
THALWEG_INLINE Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> e = exp(-abs(x));
  return select(x < T(0), e, Vec<T>(T(1))) / (e + T(1));
}

// 1 - e^(-x p(x)), where x p(x) = -log(erfc(x)), to 2^-27 of erf; from 3.93 on the answer is 1.
THALWEG_INLINE Vec<float> erf(Vec<float> x) {
  const Vec<float> within = at_most(abs(x), 3.93f);
  const Vec<float> rest = polynomial(within, 0.6366193890571594f, 0.10277783125638962f, -0.019153069704771042f,
                                     -0.00016037779278121889f, 0.0016670044278725982f, -0.0006328223971650004f,
                                     0.00011763687507482246f, -9.255752047465649e-06f);
  const Vec<float> p = fma(rest, within, Vec<float>(1.128379225730896f));
  return copysign(half_expm1_within(-(within * p)) * -2.0f, x);
}

// Below 1, x + x g, where g is a ratio of polynomials in x^2, to 2^-60; beyond, 1 - erfc(|x|), where e^(x^2) erfc(x) is
// a polynomial in (x - 2.5)/(x + 2.5), to 2^-57 of erf; from 6 on the answer is 1.
THALWEG_INLINE Vec<double> erf(Vec<double> x) {
  const Vec<double> near = clamp(x, -1.0, 1.0), z = near * near;
  const Vec<double> p = polynomial(z, 0.12837916709551257, -0.3170061192221779, -0.04832950573091855,
                                   -0.008815675923770182, -0.0004956146840095816, -2.073259568664416e-05);
  const Vec<double> q = polynomial(z, 1.0, 0.4605129566362984, 0.09381314206959619, 0.010693093578433626,
                                   0.0006924996693531919, 2.081032344177937e-05);
  const Vec<double> size = abs(x), far = clamp(size, 1.0, 6.0);
  const Vec<double> tail =
      polynomial((far - 2.5) / (far + 2.5), 0.2108063640611414, -0.37173673394893414, 0.2517131932199626,
                 -0.12503305235300716, 0.039922539091734884, -0.003993702115280721, -0.0026423697012474064,
                 0.0008759226711293134, 0.00022844545541582853, -0.00012882555134439313, -3.455423466203277e-05,
                 1.78356069227508e-05, 7.917994390937182e-06);
  return select(size > 1.0, with_sign(1.0 - exp(-(far * far)) * tail, x), fma(near, p / q, near));
}

// A number as the sum of two, the second below the last place of the first.
template <class T>
struct Split {
  Vec<T> high, low;
};

template <class T>
THALWEG_INLINE Split<T> exact_sum(Vec<T> a, Vec<T> b) {
  const Vec<T> sum = a + b, of_b = sum - a;
  return {sum, (a - (sum - of_b)) + (b - of_b)};
}

// a b as such a sum.
THALWEG_INLINE Split<double> exact_product(Vec<double> a, Vec<double> b) {
  const Vec<double> product = a * b;
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
  return {product, -fnma(a, b, product)};
#else
  // Dekker's: halves of 26 bits, whose products are exact.
  const Vec<double> a_shifted = a * 134217729.0, b_shifted = b * 134217729.0;
  const Vec<double> a_high = a_shifted - (a_shifted - a), a_low = a - a_high;
  const Vec<double> b_high = b_shifted - (b_shifted - b), b_low = b - b_high;
  return {product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low};
#endif
}

// log x as such a sum, to 2^-64 or so, for finite x > 0: what y log x needs for the last place of its power.
THALWEG_INLINE Split<double> log_split(Vec<double> x) {
  using C = Constants<double>;
  const Parted<double> parts(x);
  const Vec<double> f = parts.fraction, k = parts.exponent;
  // s = f / (2 + f)
  const Vec<double> d = f + 2.0, d_low = f - (d - 2.0);
  const Vec<double> s = f / d;
  const Split<double> back = exact_product(s, d);
  const Vec<double> s_low = (((f - back.high) - back.low) - s * d_low) / d;
  // log(1 + f) = 2s + 2/3 s^3 + s^5 rest(s^2), to 2^-71 with this rest
  Split<double> z = exact_product(s, s);
  z.low += 2.0 * s * s_low;
  const Vec<double> rest = polynomial(z.high, 0.3999999999999994, 0.28571428571466306, 0.2222222221261324,
                                      0.18181819448476874, 0.1538451905036638, 0.13337714992719785, 0.11647526097897613,
                                      0.12208004295667527);
  constexpr double two_thirds = 2.0 / 3.0, two_thirds_low = 0x1.5555555555555p-55;
  Split<double> third = exact_product(z.high, Vec<double>(two_thirds));
  third.low += z.high * two_thirds_low + z.low * two_thirds;
  Split<double> cube = exact_product(s, third.high);
  cube.low += s * third.low + s_low * third.high;
  const Vec<double> small = (cube.low + 2.0 * s_low) + (s * z.high * (z.high * rest) + k * C::ln2_low);
  const Split<double> first = exact_sum(k * C::ln2_high, 2.0 * s), second = exact_sum(first.high, cube.high);
  const Vec<double> low = (first.low + second.low) + small;
  return exact_sum(second.high, low);
}

// |x|^y for finite x other than 0, |y| at most 2^70.
THALWEG_INLINE Vec<double> power_of_size(Vec<double> size, Vec<double> y) {
  const Split<double> log = log_split(size), product = exact_product(y, log.high);
  const Vec<double> low = product.low + y * log.low;
  // Where the power is 0 or infinite, the lower half may be large.
  return exp_of_sum(product.high, select(abs(low) < 1.0, low, 0.0));
}

// In double the plain logarithm is exact enough for a float.
THALWEG_INLINE Vec<float> power_of_size(Vec<float> size, Vec<float> y) {
  constexpr std::size_t half = Vec<double>::lanes;
  float sizes[2 * half], powers[2 * half];
  size.store(sizes), y.store(powers);
  for (std::size_t i = 0; i < 2 * half; i += half) {
    Vec<double> a, b;
    for (std::size_t j = 0; j < half; ++j) a.v[j] = sizes[i + j], b.v[j] = powers[i + j];
    const Parted<double> parts(a);
    const Vec<double> r = exp(b * log_of_parts(parts.exponent, parts.fraction, Vec<double>(0.0)));
    for (std::size_t j = 0; j < half; ++j) powers[i + j] = static_cast<float>(r[j]);
  }
  return Vec<float>::load(powers);
}

template <class T>
inline Vec<T> pow(Vec<T> x, Vec<T> y) {
  using C = Constants<T>;
  const Vec<T> size = abs(x), zero(T(0)), one(T(1));
  const Mask<T> ordinary = (size > zero) & (size < C::infinity);
  // Beyond 2^70 no power but that of 1 is finite, and each is an even integer as before.
  const Vec<T> bounded = clamp(y, T(-0x1p70), T(0x1p70));
  Vec<T> r = power_of_size(select(ordinary, size, one), bounded);
  if (!all(ordinary & (x > zero))) [[unlikely]] {
    const Vec<T> end = select((size == zero) ^ (y < zero), zero, Vec<T>(C::infinity));
    r = select((size == zero) | (size == C::infinity), end, r);
    const Mask<T> whole = y == round(y), odd = whole & (y * T(0.5) != round(y * T(0.5)));
    r = select((x < zero) & (size < C::infinity) & ~whole, C::nan, r);
    r = select(odd, copysign(r, x), r);
    r = select(isnan(x) | isnan(y), x + y, r);
  }
  return select((y == zero) | (x == one), one, r);
}

// The angle of (x, y): of the smaller size over the larger one, less π/8 where that is above tan(π/8).
template <class T>
inline Vec<T> atan2(Vec<T> y, Vec<T> x) {
  using C = Constants<T>;
  const Vec<T> zero(T(0)), one(T(1)), rise = abs(y), run = abs(x);
  const Mask<T> steep = rise > run;
  const Vec<T> small = select(steep, run, rise), large = select(steep, rise, run);
  Vec<T> ratio = select(large == zero, zero, small / large);
  ratio = select(small == C::infinity, one, ratio);
  const Mask<T> middle = ratio > Vec<T>(T(0.41421356237309504880));
  const Vec<T> z = select(middle, (ratio - one) / (ratio + one), ratio), u = z * z;
  Vec<T> angle = select(middle, T(0.78539816339744830962), zero) + fma(z * u, C::atan_rest(u), z);
  angle = select(steep, T(1.57079632679489661923) - angle, angle);
  angle = select(copysign(one, x) < zero, T(3.14159265358979323846) - angle, angle);
  return select(isnan(x) | isnan(y), x + y, copysign(angle, y));
}

// Above it a quotient is left to the C library: below, and with the lower half of the divisor's digits cut off, products
// of the two are exact.
template <class T>
inline constexpr T largest_quotient = sizeof(T) == 4 ? T(0x1p10) : T(0x1p24);

template <class T>
[[gnu::noinline, gnu::cold]] Vec<T> fmod_anywhere(Mask<T> where, Vec<T> x, Vec<T> y, Vec<T> r) {
  for (std::size_t i = 0; i < Vec<T>::lanes; ++i)
    if (where.v[i]) r.v[i] = sizeof(T) == 4 ? T(__builtin_fmodf(x[i], y[i])) : T(__builtin_fmod(x[i], y[i]));
  return r;
}

// What is left of x when whole y have been taken from it, with the sign of x; exact, as in C. The nearest whole number of
// them is taken first: what is left then has no more digits than y, so that each difference is exact.
template <class T>
inline Vec<T> fmod(Vec<T> x, Vec<T> y) {
  using Integer = typename Raw<T>::Integer;
  constexpr Integer upper = ~((Integer(1) << (Constants<T>::mantissa_bits / 2 + 1)) - 1);
  const Vec<T> size = abs(x), divisor = abs(y), quotient = size / divisor, whole = round(quotient);
  const Vec<T> high = from_bits<T>(bits(divisor) & Bits<T>(upper)), low = divisor - high;
  Vec<T> rest = (size - whole * high) - whole * low;
  rest = select(rest < T(0), rest + divisor, rest);
  Vec<T> r = copysign(select(size < divisor, size, rest), x);
  const Mask<T> usual = (quotient < largest_quotient<T>) & (size + divisor < T(0.25) * std::numeric_limits<T>::max());
  if (!all(usual)) [[unlikely]]
    r = fmod_anywhere(~usual, x, y, r);
  return r;
}

// The same with the sign of y.
template <class T>
inline Vec<T> remainder(Vec<T> x, Vec<T> y) {
  const Vec<T> rest = fmod(x, y), zero(T(0));
  return select((rest != zero) & ((rest < zero) ^ (y < zero)), rest + y, rest);
}

// What is seldom asked for, number by number.
template <class T, class F>
[[gnu::noinline]] Vec<T> one_by_one(Vec<T> x, F f) {
  Vec<T> y;
  for (std::size_t i = 0; i < Vec<T>::lanes; ++i) y.v[i] = static_cast<T>(f(static_cast<double>(x[i])));
  return y;
}
template <class T>
inline Vec<T> erfc(Vec<T> x) {
  return one_by_one(x, special::erfc);
}
template <class T>
inline Vec<T> erfinv(Vec<T> x) {
  return one_by_one(x, special::erfinv);
}
template <class T>
inline Vec<T> lgamma(Vec<T> x) {
  return one_by_one(x, special::lgamma);
}
template <class T>
inline Vec<T> digamma(Vec<T> x) {
  return one_by_one(x, special::digamma);
}
template <class T>
inline Vec<T> trigamma(Vec<T> x) {
  return one_by_one(x, special::trigamma);
}

template <class T>
THALWEG_INLINE Vec<T> gelu(Vec<T> x) {
  return x * T(0.5) * (erf(x * T(0.707106781186547524401)) + T(1));
}

template <class T>
THALWEG_INLINE Vec<T> gelu_tanh(Vec<T> x) {
  return x * T(0.5) * (tanh((x + x * x * x * T(0.044715)) * T(0.797884560802865355880)) + T(1));
}

template <class T>
THALWEG_INLINE Vec<T> silu(Vec<T> x) {
  return x * sigmoid(x);
}

// log(1 + e^x).
template <class T>
THALWEG_INLINE Vec<T> softplus(Vec<T> x) {
  return select(x > T(0), x, Vec<T>(T(0))) + log1p(exp(-abs(x)));
}

}  // namespace thalweg::THALWEG_ISA
