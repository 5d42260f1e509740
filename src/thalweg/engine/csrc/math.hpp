// Elementary functions of Vec<T>, within 4 units in the last place of the exact value.

#pragma once

#include "simd.hpp"

namespace thalweg::THALWEG_ISA {

// c[0] + c[1] x + c[2] x^2 + …
template <class T>
THALWEG_INLINE Vec<T> polynomial(Vec<T>, T c) {
  return c;
}
template <class T, class... C>
THALWEG_INLINE Vec<T> polynomial(Vec<T> x, T c, C... more) {
  return fma(polynomial(x, more...), x, Vec<T>(c));
}

}  // namespace thalweg::THALWEG_ISA
