#ifndef _REENTRANT
#define _REENTRANT  // macOS declares lgamma_r where this is defined
#endif

#include "special.hpp"

#include <cmath>
#include <limits>

namespace thalweg::special {

namespace {

constexpr double PI = 3.14159265358979323846, INF = std::numeric_limits<double>::infinity();

// From here on the asymptotic series below are exact; what is smaller is moved there by steps of 1.
constexpr double FAR = 10;

// Bernoulli's numbers B_2, B_4, … B_16.
constexpr double BERNOULLI[] = {1.0 / 6, -1.0 / 30, 1.0 / 42, -1.0 / 30, 5.0 / 66, -691.0 / 2730, 7.0 / 6, -3617.0 / 510};

// x less the nearest whole number, which functions with the period 1 take as well.
double from_whole(double x) { return x - std::nearbyint(x); }

}  // namespace

double erfc(double x) { return std::erfc(x); }

// A guess that is right where its size is small or large, then Halley's method on erf, or on erfc where that tells more.
double erfinv(double x) {
    const double size = std::abs(x), rest = 1 - size;
    if (!(rest > 0) || size == 0) return rest == 0 ? std::copysign(INF, x) : size == 0 ? x : std::nan("");
    const double log = std::log(rest * (1 + size)), a = 2 / (PI * 0.147) + log / 2;
    double y = std::sqrt(std::sqrt(a * a - log / 0.147) - a);  // within 0.0035 of it (Winitzki)
    if (!(y > 0)) y = size;
    for (int i = 0; i < 3; ++i) {
        const double error = size < 0.5 ? std::erf(y) - size : rest - std::erfc(y);
        const double step = error * (std::sqrt(PI) / 2) * std::exp(y * y);
        y -= step / (1 + y * step);
    }
    return std::copysign(y, x);
}

double lgamma(double x) {
    int sign;
    return ::lgamma_r(x, &sign);  // std::lgamma would write the sign where all threads do
}

double digamma(double x) {
    if (x == 0) return std::copysign(INF, -x);
    if (x < 0) {
        const double angle = PI * from_whole(x);
        return angle == 0 || std::isinf(x) ? std::nan("") : digamma(1 - x) - PI / std::tan(angle);
    }
    double moved = 0, lost = 0;  // what is lost of a sum counts, as the logarithm may be as large
    for (; x < FAR; ++x) {
        const double sum = moved + 1 / x;
        lost += 1 / x - (sum - moved);
        moved = sum;
    }
    const double u = 1 / (x * x);
    double series = 0;
    for (int k = 8; k > 0; --k) series = (series + BERNOULLI[k - 1] / (2 * k)) * u;
    return (std::log(x) - moved) - (0.5 / x + series + lost);
}

double trigamma(double x) {
    if (x < 0.5) {
        const double sine = std::sin(PI * from_whole(x));
        return PI * PI / (sine * sine) - trigamma(1 - x);
    }
    double moved = 0;
    for (; x < FAR; ++x) moved += 1 / (x * x);
    const double u = 1 / (x * x);
    double series = 0;
    for (int k = 8; k > 0; --k) series = (series + BERNOULLI[k - 1]) * u;
    return (1 + series) / x + u / 2 + moved;
}

}  // namespace thalweg::special
