// A tile of samples carried through a solve, by whatever family of methods takes the steps.
//
// Each sample has steps of its own. A lane whose sample has ended takes the next one, so that no lane waits. The
// decisions are those of loop/integrate.py, one for one: a count or a status that differs from its is a fault.
//
// Rows of the state lie under each other, a row being `lanes` numbers; times and sizes are float64 throughout.
//
// A family is a class that has
//
//   Scalar                         the numbers of the state: float or double
//   Plan                           what all its tiles share, with `method`, `tempered` and `carries_slope`
//   Record                         what it keeps of its steps; one is handed to the constructor, or none
//   Family(plan, record, scratch)  scratch: the rows of that name for every evaluation of the tile
//   begin(lane, slope, from)       a sample takes a lane; its slope is that of lane `from`
//   attempt(step)                  goes from step.y to step.ended, and measures the error
//   extend(step)                   evaluates what the interpolant needs besides; how often, of each lane
//   terms()                        the rows that the interpolant weights
//   settle(step, extended)         sees which lanes accepted

#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "plan.hpp"

namespace thalweg::THALWEG_ISA {

inline constexpr double slack = 1e-6;  // a step that ends this near t1, relative to its size, ends there
inline constexpr double spacing = 10 * 0x1p-52;
inline constexpr double telling = 0.1;  // the least error of an earlier step that says how errors go on

// The step that is being tried, of each lane.
template <class T>
struct Step {
  static constexpr int L = lanes<T>;
  alignas(64) T size[L];               // h, as the field's numbers are
  T squares[2 * L];                    // sums of squares of the error relative to what is allowed, and of the coarse one
  double t[L], h[L];                   // where it begins, and how long it is: 0 where a lane carries nothing
  std::int64_t sample[L];              // -1 where a lane carries nothing
  std::int64_t output[L], end_output[L];  // the first that may lie in it, and the first behind it
  bool lands[L], accept[L];            // whether it ends at t1; whether it is taken
  bool any, all;                       // whether some lane accepts, and whether all do
  T *y, *own;                          // the state where it begins; the arguments of each sample
  const T* ended;                      // where it comes to
  int nfev, njev, nlu;                 // what it took, of each lane
};

// Rows of the lanes that accept the step; where all that carry something do, of all.
template <class T>
void copy_accepted(const Step<T>& step, const T* from, T* to, int rows) {
  if (step.all) return copy_rows(from, to, rows);
  T mask[lanes<T>];
  for (int l = 0; l < lanes<T>; ++l) mask[l] = step.accept[l];
  copy_lanes(from, to, mask, rows);
}

// One thread's tile and what it works with.
template <class Family>
class Tile {
public:
  using T = typename Family::Scalar;
  static constexpr int L = lanes<T>, W = Vec<T>::lanes;
  using Plan = typename Family::Plan;

  Tile(const Plan& plan, typename Family::Record* record)
      : plan_(plan), D(plan.program.dimension), numbers_(room(plan)), family_(plan, record, scratch()) {
    const std::size_t state = static_cast<std::size_t>(D) * L, own = static_cast<std::size_t>(plan.program.own) * L;
    numbers_.calm();
    T* at = scratch() + scratch_rows(plan) * L;
    const auto take = [&](std::size_t count) { return std::exchange(at, at + count); };
    step_.y = take(state), step_.own = take(own);
    waiting_y_ = take(state), waiting_slope_ = take(state), waiting_own_ = take(own);
    ahead_ = take(state), ahead_slope_ = take(state);
    time_ = take(L);
    for (int l = 0; l < L; ++l) {
      step_.sample[l] = -1;
      step_.t[l] = h_[l] = t1_[l] = direction_[l] = 0;
      limit_[l] = before_[l] = two_before_[l] = 1;
    }
  }

  // Carries the samples that `next` hands out: next(first, end) gives some that lie side by side, at most L, or none.
  template <class Next>
  void run(Next next) {
    waiting_ = waiting_end_ = 0;
    bool more = true;
    for (;;) {
      bool any = false;
      for (int l = 0; l < L; ++l) {
        while (step_.sample[l] < 0 && more) {
          if (waiting_ == waiting_end_ && !(more = fetch(next))) break;
          begin(l);
        }
        any |= step_.sample[l] >= 0;
      }
      if (!any) return;
      attempt();
      double error[L];
      for (int l = 0; l < L; ++l) error[l] = relative(step_.squares[l], step_.squares[L + l], D);
      settle(error);
    }
  }

  // What follows is for tiles whose samples step together: a step of all is settled by one error.

  // Takes the samples [first, end), at most L, and evaluates the slope where the method or the first step needs it.
  void load(std::int64_t first, std::int64_t end) {
    const Task<T>& task = plan_.task;
    waiting_first_ = first;
    waiting_ = 0;
    waiting_end_ = static_cast<int>(end - first);
    for (int l = 0; l < L; ++l) {
      const std::int64_t s = first + (l < waiting_end_ ? l : 0);  // lanes without a sample repeat the first
      put_column(task.y0 + s * D, waiting_y_, l, D);
      load_own(s, waiting_own_, l);
      span_[l] = task.t1[s] - task.t0[s];
      waiting_t_[l] = task.t0[s];
      time_[l] = static_cast<T>(task.t0[s]);
    }
    waiting_evaluations_ = 0;
    if (chooses() || plan_.carries_slope()) evaluate_waiting(waiting_y_, waiting_slope_);
  }
  bool chooses() const { return std::isnan(plan_.control.first_step); }

  // Sums of squares of the state and of the slope, of each lane.
  void begin_squares(double* state, double* slope) const {
    squares_of(waiting_y_, waiting_y_, state);
    squares_of(waiting_slope_, waiting_y_, slope);
  }

  // Sums of squares of how the slope changes over tentative steps.
  void look_ahead(const double* h0, double* change) {
    T size[L];
    for (int l = 0; l < L; ++l) {
      const double h = span_[l] < 0 ? -h0[l] : h0[l];
      size[l] = static_cast<T>(h);
      time_[l] = static_cast<T>(waiting_t_[l] + h);
    }
    const T one(1);
    const T* slopes[1] = {waiting_slope_};
    combine(waiting_y_, slopes, &one, 1, size, ahead_, D);
    evaluate_waiting(ahead_, ahead_slope_);
    for (int i = 0; i < D * L; i += W)
      (Vec<T>::load(ahead_slope_ + i) - Vec<T>::load(waiting_slope_ + i)).store(ahead_slope_ + i);
    squares_of(ahead_slope_, waiting_y_, change);
  }

  // Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I (1993), II.4: the size of a tentative step from how
  // large state and slope are, and that of the first one from how the slope changes over it too.
  static double tentative(double d0, double d1, double span) {
    if (std::isnan(d0) || std::isnan(d1)) return std::nan("");
    const double h0 = d0 < 1e-5 || d1 < 1e-5 ? 1e-6 : 0.01 * d0 / d1;
    return std::fmin(h0, std::fabs(span));
  }
  double first_size(double d0, double d1, double d2, double h0, double span) const {
    if (!std::isfinite(d0) || !std::isfinite(d1)) return std::nan("");
    const double steepest = std::fmax(d1, d2);
    double h1 = steepest <= 1e-15 ? std::fmax(h0 * 1e-3, 1e-6) : std::pow(0.01 / steepest, 1.0 / plan_.method.error_order);
    // a field that blows up one tentative step ahead says nothing of d2: start from h0 and let the controller see
    if (!std::isfinite(d2)) h1 = h0;
    return std::fmin(std::fmin(100 * h0, h1), std::fabs(span));
  }
  void set_first(int lane, double size) {
    const double direction = (span_[lane] > 0) - (span_[lane] < 0);
    waiting_h_[lane] = bounded(direction * size, direction);
  }
  void begin_all() {
    for (int l = 0; l < waiting_end_; ++l) begin(l);
  }

  bool runs() const {
    for (int l = 0; l < L; ++l)
      if (step_.sample[l] >= 0) return true;
    return false;
  }
  // The sums over the lanes that carry samples.
  void add_squares(double* sums) const {
    for (int l = 0; l < L; ++l)
      if (step_.sample[l] >= 0) sums[0] += step_.squares[l], sums[1] += step_.squares[L + l];
  }

  // The size of an error from its sum of squares over so many entries, and that of the coarse one.
  double relative(double sum, double coarse_sum, double entries) const {
    const double error = std::sqrt(sum / entries);
    if (!plan_.tempered()) return error;
    const double coarse = std::sqrt(coarse_sum / entries) / (error == 0 ? 1.0 : error);
    const double ratio = coarse > 1e100 ? 1e100 : coarse;
    return error / std::sqrt(1 + 0.01 * ratio * ratio);
  }

  int samples() const { return waiting_end_; }

  // Tries one step of every lane, up to its error.
  void attempt() {
    for (int l = 0; l < L; ++l) {
      const double remaining = t1_[l] - step_.t[l];
      step_.lands[l] = step_.sample[l] >= 0 && remaining / h_[l] <= 1 + slack;
      step_.h[l] = step_.sample[l] < 0 ? 0 : step_.lands[l] ? remaining : h_[l];
      step_.size[l] = static_cast<T>(step_.h[l]);
    }
    family_.attempt(step_);
  }

  // Accepts or rejects the step of each lane, whose error relative to what is allowed is given.
  void settle(const double* error) {
    const Control& control = plan_.control;
    const Task<T>& task = plan_.task;
    bool* const accept = step_.accept;
    double h_next[L], t_next[L], factor[L];
    if (control.adaptive) factors(error, factor);
    bool some_due = false;
    step_.any = false, step_.all = true;
    Status failure[L];
    for (int l = 0; l < L; ++l) {
      accept[l] = false;
      failure[l] = Status::success;
      step_.end_output[l] = step_.output[l];
      if (step_.sample[l] < 0) continue;
      const double t = step_.t[l], h = step_.h[l];
      ++tried_[l];
      evaluated_[l] += step_.nfev;
      linearized_[l] += step_.njev;
      factored_[l] += step_.nlu;
      double proposed = own_size_[l];
      accept[l] = true;
      if (control.adaptive) {
        accept[l] = error[l] <= 1;
        if (control.min_step > 0 && std::isfinite(error[l]) && std::fabs(h) <= control.min_step * (1 + slack)) accept[l] = true;
        proposed = h * factor[l];
      }
      t_next[l] = accept[l] ? (step_.lands[l] ? t1_[l] : t + h) : t;
      const bool stuck = control.adaptive && (std::fabs(proposed) <= std::fmax(std::fabs(t) * spacing, floor_[l]) ||
                                              (control.min_step > 0 && std::fabs(h) <= control.min_step));
      h_next[l] = bounded(proposed, direction_[l]);
      if (stuck && !accept[l]) failure[l] = std::isfinite(error[l]) ? Status::step_underflow : Status::nonfinite;
      if (accept[l] && task.t_eval) {
        std::int64_t& end = step_.end_output[l];
        while (end < task.outputs && (output_time(end, step_.sample[l]) - t_next[l]) * direction_[l] <= 0) ++end;
        some_due |= end > step_.output[l];
      }
      step_.any |= accept[l];
      step_.all &= accept[l];
    }

    if (some_due) {
      const int extra = family_.extend(step_);
      for (int l = 0; l < L; ++l)
        if (step_.end_output[l] > step_.output[l]) evaluated_[l] += extra;
      interpolate();
    }
    if (step_.any) copy_accepted(step_, step_.ended, step_.y, D);
    family_.settle(step_, some_due);

    for (int l = 0; l < L; ++l) {
      if (step_.sample[l] < 0) continue;
      step_.output[l] = step_.end_output[l];
      if (accept[l]) ++accepted_[l];
      step_.t[l] = t_next[l];
      const bool arrived = t_next[l] == t1_[l];
      if (arrived) {
        h_[l] = h_next[l];
        end(l, Status::success);
      } else if (failure[l] != Status::success) {
        h_[l] = 0;
        end(l, failure[l]);
      } else {
        h_[l] = h_next[l];
        if (tried_[l] >= control.max_steps) end(l, Status::max_steps);
      }
    }
  }

private:
  const Plan& plan_;
  const int D;
  Array<T> numbers_;  // all rows of the tile
  Family family_;
  Step<T> step_;
  T *waiting_y_, *waiting_slope_, *waiting_own_, *ahead_, *ahead_slope_, *time_;

  // Of the samples in the lanes.
  double h_[L], t1_[L], direction_[L], floor_[L], before_[L], two_before_[L], limit_[L], own_size_[L];
  std::int64_t tried_[L], accepted_[L], evaluated_[L], linearized_[L], factored_[L];

  // Samples that have a slope and a first step, and wait for a lane.
  int waiting_ = 0, waiting_end_ = 0;
  std::int64_t waiting_first_ = 0;
  double waiting_h_[L], waiting_t_[L], span_[L];
  int waiting_evaluations_ = 0;

  static std::size_t scratch_rows(const Plan& plan) {
    const Program& program = plan.program;
    return 1 + static_cast<std::size_t>(program.plain.scratch > program.record.scratch ? program.plain.scratch : program.record.scratch);
  }
  static std::size_t room(const Plan& plan) {
    const std::size_t state = plan.program.dimension, own = plan.program.own;
    return (scratch_rows(plan) + 5 * state + 2 * own + 1) * L;
  }
  T* scratch() const { return numbers_.data(); }

  // Of the samples that wait, at `time_`.
  void evaluate_waiting(T* state, T* slope) {
    evaluate(plan_.program, plan_.program.plain, plan_.shared, frame_of<T>(scratch(), nullptr, time_, state, slope, waiting_own_));
    ++waiting_evaluations_;
  }

  // Sums of squares of rows relative to the tolerance at y, of each lane.
  void squares_of(const T* x, const T* y, double* to) const {
    T sums[L] = {};
    for (int d = 0; d < D; ++d)
      for (int j = 0; j < L; j += W) {
        const Vec<T> allowed = Vec<T>(plan_.atol(d)) + abs(Vec<T>::load(y + d * L + j)) * plan_.rtol(d);
        const Vec<T> ratio = Vec<T>::load(x + d * L + j) / allowed;
        (Vec<T>::load(sums + j) + ratio * ratio).store(sums + j);
      }
    for (int l = 0; l < L; ++l) to[l] = static_cast<double>(sums[l]);
  }

  double bounded(double h, double direction) const {
    const Control& c = plan_.control;
    if (std::fabs(h) > c.max_step) h = direction * c.max_step;
    if (c.min_step > 0 && std::fabs(h) < c.min_step) h = direction * c.min_step;
    return h;
  }

  // Takes samples that lie side by side, and gives each its slope and the size of its first step.
  template <class Next>
  bool fetch(Next& next) {
    std::int64_t first, end;
    if (!next(first, end)) return false;
    load(first, end);
    double h0[L], squares[3][L];
    if (chooses()) {
      begin_squares(squares[0], squares[1]);
      for (int l = 0; l < L; ++l) h0[l] = tentative(root(squares[0][l]), root(squares[1][l]), span_[l]);
      look_ahead(h0, squares[2]);
    }
    for (int l = 0; l < waiting_end_; ++l) {
      double size = plan_.control.first_step;
      if (chooses()) size = first_size(root(squares[0][l]), root(squares[1][l]), root(squares[2][l]) / h0[l], h0[l], span_[l]);
      set_first(l, size);
    }
    return true;
  }
  double root(double sum) const { return std::sqrt(sum / D); }

  void load_own(std::int64_t sample, T* rows, int lane) const {
    const Program& program = plan_.program;
    for (int v = 2; v < program.inputs; rows += program.sizes[v++] * L)
      put_column(plan_.task.own[v - 2] + sample * program.sizes[v], rows, lane, program.sizes[v]);
  }

  double output_time(std::int64_t output, std::int64_t sample) const {
    return plan_.task.t_eval[output * plan_.task.output_step + sample * plan_.task.sample_step];
  }
  T* output(std::int64_t output, std::int64_t sample) const {
    return plan_.task.ys + (output * plan_.task.batch + sample) * D;
  }

  // Puts the next waiting sample into a lane; one that does not run ends at once.
  void begin(int l) {
    const Task<T>& task = plan_.task;
    const int from = waiting_++;
    const std::int64_t s = waiting_first_ + from;
    for (int d = 0; d < D; ++d) step_.y[d * L + l] = waiting_y_[d * L + from];
    family_.begin(l, waiting_slope_, from);
    for (int r = 0; r < plan_.program.own; ++r) step_.own[r * L + l] = waiting_own_[r * L + from];
    step_.t[l] = task.t0[s];
    t1_[l] = task.t1[s];
    direction_[l] = (t1_[l] > step_.t[l]) - (t1_[l] < step_.t[l]);
    tried_[l] = accepted_[l] = evaluated_[l] = linearized_[l] = factored_[l] = 0;
    h_[l] = 0;
    step_.output[l] = 0;
    step_.sample[l] = s;
    if (!task.t_eval) {
      std::memcpy(output(0, s), task.y0 + s * D, sizeof(T) * D);
    } else {
      while (step_.output[l] < task.outputs && output_time(step_.output[l], s) == step_.t[l])
        std::memcpy(output(step_.output[l]++, s), task.y0 + s * D, sizeof(T) * D);
    }
    if (step_.t[l] == t1_[l]) return end(l, Status::success);
    evaluated_[l] = waiting_evaluations_;
    if (!std::isfinite(waiting_h_[from])) return end(l, Status::nonfinite);
    h_[l] = waiting_h_[from];
    own_size_[l] = h_[l];
    floor_[l] = spacing * std::fabs(h_[l]);
    before_[l] = two_before_[l] = 1;
    limit_[l] = plan_.control.most;
  }

  // Writes what is known of a lane's sample, and frees the lane.
  void end(int l, Status status) {
    const Task<T>& task = plan_.task;
    const std::int64_t s = step_.sample[l];
    if (status == Status::success)
      for (int d = 0; d < D; ++d)
        if (!std::isfinite(step_.y[d * L + l])) status = Status::nonfinite;
    if (!task.t_eval) {
      T* to = output(1, s);
      if (status == Status::success)
        take_column(step_.y, l, to, D);
      else
        for (int d = 0; d < D; ++d) to[d] = std::numeric_limits<T>::quiet_NaN();
    } else {
      for (; step_.output[l] < task.outputs; ++step_.output[l])
        for (int d = 0; d < D; ++d) output(step_.output[l], s)[d] = std::numeric_limits<T>::quiet_NaN();
    }
    task.status[s] = static_cast<std::int64_t>(status);
    task.n_steps[s] = tried_[l];
    task.n_accepted[s] = accepted_[l];
    task.nfev[s] = evaluated_[l];
    task.njev[s] = linearized_[l];
    task.nlu[s] = factored_[l];
    task.t_end[s] = step_.t[l];
    task.h_end[s] = h_[l];
    step_.sample[l] = -1;
    h_[l] = 0;  // the lane stands still
  }

  // How the size of each lane changes; what is remembered of this step's error.
  void factors(const double* error, double* factor) {
    using V = Vec<double>;
    constexpr int Wide = V::lanes;
    const Control& c = plan_.control;
    const double order = plan_.method.error_order;
    for (int l = 0; l < L; l += Wide) {
      V e = V::load(error + l);
      const auto accept = e <= V(1.0);
      e = select(e < V(1e-10), 1e-10, e);  // NaN stays
      V f = c.safety * pow(e, V(-(c.p + c.i + c.d) / order));
      V most = V::load(limit_ + l), before = V::load(before_ + l), two_before = V::load(two_before_ + l);
      if (c.d != 0) {
        f *= pow(two_before, V(-c.d / order));
        select(accept, before, two_before).store(two_before_ + l);
      }
      if (c.p != 0 || c.d != 0) {
        f *= pow(before, V((c.p + 2 * c.d) / order));
        select(accept, select(e > V(telling), e, telling), before).store(before_ + l);
        most = select(accept, most, c.safety);
      }
      f = select(f > most, most, f);
      f = select(f > V(c.least), f, c.least);  // NaN too
      f.store(factor + l);
      select(accept, c.most, V(1.0)).store(limit_ + l);
    }
  }

  // b_i(θ) of every stage.
  void weights(double theta, double* to) const {
    for (const auto& row : plan_.method.interpolant) {
      double sum = 0;
      for (std::size_t n = row.size(); n-- > 0;) sum = (sum + row[n]) * theta;
      *to++ = sum;
    }
  }

  // Writes the outputs of each lane that lie in its step.
  void interpolate() const {
    const T* const* const terms = family_.terms();
    const int count = static_cast<int>(plan_.method.interpolant.size());
    double w[most_terms];
    for (int l = 0; l < L; ++l)
      for (std::int64_t o = step_.output[l]; o < step_.end_output[l]; ++o) {
        weights((output_time(o, step_.sample[l]) - step_.t[l]) / step_.h[l], w);
        T* to = output(o, step_.sample[l]);
        for (int d = 0; d < D; ++d) {
          T sum = step_.y[d * L + l];
          for (int i = 0; i < count; ++i)
            if (w[i] != 0) sum += static_cast<T>(w[i] * step_.h[l]) * terms[i][d * L + l];
          to[d] = sum;
        }
      }
  }
};

}  // namespace thalweg::THALWEG_ISA
