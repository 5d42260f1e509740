// A step of a Rosenbrock method, for the lanes of a tile: that of steppers/rosenbrock.py.
//
// With M = I - γ h J, of each lane its own,
//
//   M w_i = γ (f(t + α_i h, y + h Σ_{j<i} a_ij w_j) + Σ_{j<i} c_ij w_j + γ_i h f_t),
//
// and y moves by h Σ m_i w_i. The w_i are much larger than what they add up to: sums of them are made in float64.

#pragma once

#include "batching.hpp"
#include "linearization.hpp"
#include "lu.hpp"

namespace thalweg::THALWEG_ISA {

template <class T>
struct RosenbrockPlan : Plan<T> {
  // Two weights of a stage: of the state that it moves to, and of what is added beside it.
  struct Weights {
    int stage;
    double move, beside;
  };

  const RosenbrockMethod& method;
  Array<Weights> weights;  // of stage 0 first, of the end of the step last; where both are 0 they are left out
  Array<int> begin;        // of each of these, and the end

  RosenbrockPlan(const Program& program, const RosenbrockMethod& method, const Control& control, const Task<T>& task)
      : Plan<T>(program, control, task, true), method(method) {
    const int stages = method.stages;
    weights.resize(static_cast<std::size_t>(stages) * (stages + 1) / 2);
    begin.resize(static_cast<std::size_t>(stages) + 2);
    int count = 0;
    for (int i = 0; i <= stages; ++i) {
      begin[i] = count;
      const std::vector<double>& move = i < stages ? method.a[i] : method.m;
      const std::vector<double>& beside = i < stages ? method.c[i] : method.m_error;
      for (int j = 0; j < static_cast<int>(move.size()); ++j)
        if (move[j] != 0 || beside[j] != 0) weights[count++] = {j, move[j], beside[j]};
    }
    begin[stages + 1] = count;
  }

  static constexpr bool tempered() { return false; }
  static constexpr bool carries_slope() { return false; }
};

// A family of `Tile`.
template <class T>
class Rosenbrock {
public:
  static constexpr int L = lanes<T>, W = Vec<T>::lanes;
  using Scalar = T;
  using Plan = RosenbrockPlan<T>;
  struct Record {};  // nothing is kept of a step

  static std::size_t workspace_rows(const Plan&) { return 0; }

  Rosenbrock(const Plan& plan, Record*, T* scratch, T*)
      : plan_(plan), D(plan.program.dimension), S(plan.method.stages), scratch_(scratch), start_(plan, scratch), factors_(D),
        stages_(S) {
    const std::size_t state = static_cast<std::size_t>(D) * L;
    numbers_.resize(state * (S + 4) + L);
    numbers_.calm();
    T* at = numbers_.data();
    const auto take = [&](std::size_t count) { return std::exchange(at, at + count); };
    for (int i = 0; i < S; ++i) stages_[i] = take(state);
    state_ = take(state), slope_ = take(state), beside_ = take(state), ended_ = take(state);
    time_ = take(L);
  }

  void begin(int, const T*, int) { kept_ = false; }

  void attempt(Step<T>& step) {
    step.nfev = kept_ ? S - 1 : S, step.njev = !kept_, step.nlu = 1;
    if (!kept_) {
      set_time(0, step);
      start_.make(time_, step.y, step.own);
    }
    shift(step.size);
    factors_.factor();
    for (int i = 0; i < S; ++i) {
      if (i > 0) {
        sum(i, step, state_, beside_);
        set_time(i, step);
        evaluate(plan_.plain, frame_of<T>(scratch_, nullptr, time_, state_, slope_, step.own));
      }
      right_side(i, step.size, stages_[i]);
      factors_.solve(stages_[i]);
    }
    sum(S, step, ended_, beside_);
    step.ended = ended_;
  }

  // Of the error, which is h times what stands beside the end of the step.
  void squares(Step<T>& step, int first, int end) const {
    for (int j = 0; j < L; j += W) {
      const Vec<T> size = Vec<T>::load(step.size + j);
      Vec<T> total(T(0));
      for (int d = first; d < end; ++d) {
        const int at = d * L + j;
        const Vec<T> larger = max(abs(Vec<T>::load(step.y + at)), abs(Vec<T>::load(ended_ + at)));
        const Vec<T> allowed = fma(larger, Vec<T>(plan_.rtol(d)), Vec<T>(plan_.atol(d)));
        const Vec<T> ratio = size * Vec<T>::load(beside_ + at) / allowed;
        total = fma(ratio, ratio, total);
      }
      total.store(step.squares + j);
    }
  }

  // As that of explicit methods.
  void blemish(Step<T>& step) const {
    for (int j = 0; j < L; j += W) {
      Vec<T> total(T(0));
      for (int at = j; at < D * L; at += L)
        total += (Vec<T>::load(ended_ + at) + Vec<T>::load(step.size + j) * Vec<T>::load(beside_ + at)) * T(0);
      total.store(step.squares + j);
    }
  }

  int extend(const Step<T>&) { return 0; }
  const T* const* terms() const { return stages_.data(); }

  // A linearization serves again where all samples reject: one that steps alone may not, for then the counts of a sample
  // would depend on those beside it.
  void settle(const Step<T>& step, bool) { kept_ = plan_.control.joint && !step.any; }

private:
  const Plan& plan_;
  const int D, S;
  T* scratch_;
  Linearization<T> start_;
  Factors<T> factors_;
  Array<T*> stages_;  // w_i
  Array<T> numbers_;
  T *state_, *slope_, *beside_, *ended_, *time_;
  bool kept_ = false;  // whether `start_` is of the step to come

  void set_time(int i, const Step<T>& step) {
    const double alpha = plan_.method.alpha[i];
    for (int l = 0; l < L; ++l) time_[l] = static_cast<T>(step.t[l] + alpha * step.h[l]);
  }

  // M, from J.
  void shift(const T* size) {
    const T* from = start_.jacobian();
    T* to = factors_.matrix();
    for (int j = 0; j < L; j += W) {
      const Vec<T> scale = Vec<T>::load(size + j) * static_cast<T>(-plan_.method.gamma);
      for (int i = 0; i < D * D; ++i) (Vec<T>::load(from + i * L + j) * scale).store(to + i * L + j);
      for (int d = 0; d < D; ++d) {
        T* const diagonal = to + static_cast<std::ptrdiff_t>(d) * (D + 1) * L + j;
        (Vec<T>::load(diagonal) + T(1)).store(diagonal);
      }
    }
  }

  // Both sums of stage i, or of the end of the step: moved = y + h Σ a_ij w_j and beside = Σ c_ij w_j.
  void sum(int i, const Step<T>& step, T* moved, T* beside) const {
    using Wide = Vec<double>;
    constexpr int parts = L / static_cast<int>(Wide::lanes);
    const auto* const first = plan_.weights.data() + plan_.begin[i];
    const auto* const last = plan_.weights.data() + plan_.begin[i + 1];
    for (int row = 0; row < D; ++row)
#pragma GCC unroll 4
      for (int j = 0; j < parts; ++j) {
        const int at = row * L + j * static_cast<int>(Wide::lanes);
        Wide move(0.0), other(0.0);
        for (const auto* w = first; w != last; ++w) {
          const Wide x = load_wide(stages_[w->stage] + at);
          move = fma(x, Wide(w->move), move);
          other = fma(x, Wide(w->beside), other);
        }
        const Wide size = load_wide(step.size + j * static_cast<int>(Wide::lanes));
        store_narrow(fma(size, move, load_wide(step.y + at)), moved + at);
        store_narrow(other, beside + at);
      }
  }

  void right_side(int i, const T* size, T* to) const {
    const T* const slope = i > 0 ? slope_ : start_.slope();
    const T* const change = start_.time_derivative();
    const T gamma = static_cast<T>(plan_.method.gamma), drift = static_cast<T>(plan_.method.gamma_sums[i]);
    each<T>(D, [&](int row, int j) {
      const int at = row * L + j * W;
      Vec<T> right = Vec<T>::load(slope + at);
      if (i > 0) right += Vec<T>::load(beside_ + at);
      if (change) right = fma(Vec<T>::load(size + j * W) * Vec<T>::load(change + at), Vec<T>(drift), right);
      (right * gamma).store(to + at);
    });
  }
};

template <class T>
void solve_rosenbrock(const Program& program, const RosenbrockMethod& method, const Control& control, Task<T> task) {
  task.threads = busy_threads(task);
  const RosenbrockPlan<T> plan(program, method, control, task);
  carry<Rosenbrock<T>>(plan, nullptr);
}

}  // namespace thalweg::THALWEG_ISA
