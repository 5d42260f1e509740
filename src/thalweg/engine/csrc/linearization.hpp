// A program at a point, and its derivatives there, of each lane: J = ∂f/∂y, and f_t = ∂f/∂t where f reads the time.
//
// D: rows of the state. J: D x D rows, row-major. It comes from D products aᵀJ, each with a single 1 in a.

#pragma once

#include "plan.hpp"

namespace thalweg::THALWEG_ISA {

template <class T>
class Linearization {
public:
  static constexpr int L = lanes<T>;

  // The plan is one for derivatives.
  Linearization(const Plan<T>& plan, T* scratch)
      : plan_(plan), scratch_(scratch), D(plan.program.dimension), timed_(plan.timed) {
    const Program& program = plan.program;
    const std::size_t d = D;
    numbers_.resize((d * d + 3 * d + program.record.saved + 1 + program.adjoint_rows + program.kept_rows) * L);
    numbers_.calm();
    T* at = numbers_.data();
    const auto take = [&](std::size_t rows) { return std::exchange(at, at + rows * L); };
    slope_ = take(d), jacobian_ = take(d * d), time_derivative_ = take(d), seed_ = take(d);
    saved_ = take(static_cast<std::size_t>(program.record.saved) + 1);
    adjoints_ = {take(program.adjoint_rows), take(program.kept_rows)};
    zero_rows(seed_, D);
    nowhere_.resize(program.shared.size() + 1);
    nowhere_.zero();
  }

  void make(T* time, T* state, T* own) {
    const Program& program = plan_.program;
    const Frame<T> frame = frame_of(scratch_, saved_, time, state, slope_, own);
    evaluate(plan_.record, frame);
    for (int i = 0; i < D; ++i) {
      fill(seed_ + i * L, T(1));
      pull_back(plan_.record, frame, seed_, adjoints_, SharedGradients<T>{nowhere_.data(), nullptr});
      fill(seed_ + i * L, T(0));
      copy_rows(adjoints_.rows(program.adjoint[1]), jacobian_ + static_cast<std::ptrdiff_t>(i) * D * L, D);
      if (timed_) copy_rows(adjoints_.rows(program.adjoint[0]), time_derivative_ + i * L, 1);
    }
  }

  const T* slope() const { return slope_; }
  const T* jacobian() const { return jacobian_; }
  // Null where the field does not read the time.
  const T* time_derivative() const { return timed_ ? time_derivative_ : nullptr; }

private:
  const Plan<T>& plan_;
  T* scratch_;
  const int D;
  const bool timed_;
  Array<T> numbers_;
  Array<T*> nowhere_;  // gradients of shared tensors are not asked for
  Adjoints<T> adjoints_;
  T *slope_, *jacobian_, *time_derivative_, *seed_, *saved_;

  static void fill(T* row, T number) {
    for (int l = 0; l < L; ++l) row[l] = number;
  }
};

}  // namespace thalweg::THALWEG_ISA
