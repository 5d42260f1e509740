// Functions that fields seldom ask for, one number at a time and the same for all sets of instructions.

#pragma once

namespace thalweg::special {

double erfc(double x);
double erfinv(double x);
double lgamma(double x);    // log |Γ(x)|
double digamma(double x);   // its derivative
double trigamma(double x);  // and the derivative of that

}  // namespace thalweg::special
