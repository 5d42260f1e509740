#pragma once
#include <cmath>
#include "simd.hpp"
namespace thalweg::THALWEG_ISA {
#define ONE(name) template <class T> inline Vec<T> name(Vec<T> x) { for (std::size_t i=0;i<Vec<T>::lanes;++i) x.v[i]=std::name(x[i]); return x; }
ONE(exp) ONE(expm1) ONE(log) ONE(log1p) ONE(sin) ONE(cos) ONE(tanh) ONE(erf)
template <class T> inline Vec<T> pow(Vec<T> x, Vec<T> y) { for (std::size_t i=0;i<Vec<T>::lanes;++i) x.v[i]=std::pow(x[i],y[i]); return x; }
template <class T> inline Vec<T> sigmoid(Vec<T> x) { return T(1)/(T(1)+exp(-x)); }
template <class T> inline Vec<T> gelu(Vec<T> x) { return x*T(0.5)*(T(1)+erf(x*T(0.70710678118654752440))); }
template <class T> inline Vec<T> gelu_tanh(Vec<T> x) { return x*T(0.5)*(T(1)+tanh((x+x*x*x*T(0.044715))*T(0.79788456080286535588))); }
}
