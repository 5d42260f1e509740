// The coefficients of an explicit method, as a solve uses them.

#pragma once

#include "plan.hpp"

namespace thalweg::THALWEG_ISA {

template <class T>
struct ExplicitPlan : Plan<T> {
  const ExplicitMethod& method;
  int all;                          // stages, extra ones too
  Array<T> a, b, b_error, b_coarse; // as T: row i of `a` starts at i * all

  ExplicitPlan(const Program& program, const ExplicitMethod& method, const Control& control, const Task<T>& task)
      : Plan<T>(program, control, task, task.record), method(method), all(method.stages + method.extra) {
    a.resize(static_cast<std::size_t>(all) * all);
    a.zero();
    for (int i = 0; i < all; ++i)
      for (std::size_t j = 0; j < method.a[i].size(); ++j) a[static_cast<std::size_t>(i) * all + j] = static_cast<T>(method.a[i][j]);
    const auto cast = [](const std::vector<double>& from, Array<T>& to) {
      to.resize(from.size());
      for (std::size_t i = 0; i < from.size(); ++i) to[i] = static_cast<T>(from[i]);
    };
    cast(method.b, b);
    cast(method.b_error, b_error);
    cast(method.b_coarse, b_coarse);
  }

  // Whether a second, coarser estimate of the error tempers the first.
  bool tempered() const { return b_coarse.size() > 0; }
  // Whether a step begins with a slope that is known.
  bool carries_slope() const { return method.fsal; }
};

}  // namespace thalweg::THALWEG_ISA
