// The coefficients of an explicit method, as a solve uses them.

#pragma once

#include "plan.hpp"

namespace thalweg::THALWEG_ISA {

template <class T>
struct ExplicitPlan : Plan<T> {
  const ExplicitMethod& method;
  int all;  // stages, extra ones too

  ExplicitPlan(const Program& program, const ExplicitMethod& method, const Control& control, const Task<T>& task)
      : Plan<T>(program, control, task, task.record), method(method), all(method.stages + method.extra),
        sums_(static_cast<std::size_t>(all) + 2) {
    std::size_t most = 2 * static_cast<std::size_t>(method.stages);
    for (const auto& row : method.a) most += row.size();
    weights_.resize(most);
    coarse_.resize(static_cast<std::size_t>(method.stages));
    numbers_.resize(most);
    T* weights = weights_.data();
    int* numbers = numbers_.data();
    const auto sum = [&](const std::vector<double>& of, auto counts) {
      Terms<T> terms{weights, numbers, 0};
      for (std::size_t j = 0; j < of.size(); ++j) {
        if (!counts(j)) continue;
        *weights++ = static_cast<T>(of[j]);
        *numbers++ = static_cast<int>(j);
        ++terms.count;
      }
      return terms;
    };
    const auto nonzero = [](const std::vector<double>& of) { return [&of](std::size_t j) { return of[j] != 0; }; };
    const auto in_error = [&](std::size_t j) {
      return method.b_error[j] != 0 || (tempered() && method.b_coarse[j] != 0);
    };
    for (int i = 0; i < all; ++i) sums_[i] = sum(method.a[i], nonzero(method.a[i]));
    sums_[all] = sum(method.b, nonzero(method.b));
    sums_[all + 1] = sum(method.b_error, in_error);
    for (int n = 0; tempered() && n < error().count; ++n) coarse_[n] = static_cast<T>(method.b_coarse[error().numbers[n]]);
  }

  // Of the slopes before stage i, of all at the end, and of those that tell the error, whose weights in the coarse one are
  // `coarse`.
  const Terms<T>& stage(int i) const { return sums_[i]; }
  const Terms<T>& end() const { return sums_[all]; }
  const Terms<T>& error() const { return sums_[all + 1]; }
  const T* coarse() const { return coarse_.data(); }

  // Whether a second, coarser estimate of the error tempers the first.
  bool tempered() const { return !method.b_coarse.empty(); }
  // Whether the way back needs the slopes of a step that it does not compute again.
  bool keeps_slopes() const { return this->task.times_wanted || this->program.record.reads_slope; }
  // Whether a step begins with a slope that is known.
  bool carries_slope() const { return method.fsal; }

private:
  Array<Terms<T>> sums_;
  Array<T> weights_, coarse_;
  Array<int> numbers_;
};

}  // namespace thalweg::THALWEG_ISA
