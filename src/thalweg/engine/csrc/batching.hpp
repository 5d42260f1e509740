// Whose error counts together: tiles that step on their own, sample by sample, or side by side.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>

#include "tile.hpp"

namespace thalweg::THALWEG_ISA {

// The first of the samples that thread i of n carries, side by side.
inline std::int64_t share(std::int64_t batch, int i, int n) { return batch * i / n; }

template <class T>
void allot(Array<T>& workspace, std::size_t rows) {
  workspace.resize(rows * lanes<T>);
  workspace.calm();
}

// Solves with one size of step for all samples: the tiles take it side by side, and all wait for the error of all.
template <class Family>
void solve_joint(const typename Family::Plan& plan, typename Family::Record* records) {
  using T = typename Family::Scalar;
  constexpr int L = lanes<T>;
  const Task<T>& task = plan.task;
  const int count = static_cast<int>((task.batch + L - 1) / L);
  const std::unique_ptr<std::unique_ptr<Tile<Family>>[]> tiles(new std::unique_ptr<Tile<Family>>[count]);
  // the tiles of a thread take turns in one workspace, which stays in its cache
  const bool shared = !task.t_eval && !task.trail;
  const std::unique_ptr<Array<T>[]> workspaces(new Array<T>[shared ? task.threads : count]);
  if (task.trail) task.trail->parts(count);
  const auto each_tile = [&](auto f) {
    parallel(task.threads, task.interruption, [&](int i) {
      for (std::int64_t n = share(count, i, task.threads); n < share(count, i + 1, task.threads); ++n) {
        heed(task.interruption, i == 0);
        f(static_cast<int>(n), i);
      }
    });
  };
  // Of each part of the state, and of each tile, two sums.
  const std::vector<int> whole{plan.program.dimension};
  const std::vector<int>& ends = plan.control.parts.empty() ? whole : plan.control.parts;
  const int of_tile = 2 * static_cast<int>(ends.size());
  Array<double> sums(static_cast<std::size_t>(count) * of_tile);
  const auto each_part = [&](auto f) {
    for (int p = 0, first = 0; p < of_tile / 2; first = ends[p++]) f(2 * p, first, ends[p]);
  };
  const auto total = [&](int n) {  // in the order of the tiles, whatever the threads
    double sum = 0;
    for (int i = 0; i < count; ++i) sum += sums[of_tile * i + n];
    return sum;
  };
  // Of what is measured part by part, the largest, or what is no number.
  const auto largest = [&](auto size) {
    double most = 0;
    each_part([&](int n, int first, int end) {
      const double found = size(n, static_cast<double>(task.batch) * (end - first));
      if (!(found <= most)) most = most == most ? found : most;
    });
    return most;
  };
  const auto root = [&](int n) {
    return largest([&](int part, double entries) { return std::sqrt(total(part + n) / entries); });
  };
  const auto sum_lanes = [](const double* squares, int samples) {
    double sum = 0;
    for (int l = 0; l < samples; ++l) sum += squares[l];
    return sum;
  };
  each_tile([&](int n, int thread) {
    Array<T>& workspace = workspaces[shared ? thread : n];
    if (!workspace.data()) allot(workspace, Tile<Family>::workspace_rows(plan));
    tiles[n].reset(new Tile<Family>(plan, records ? records + n : nullptr, workspace.data(), n));
    const std::int64_t first = static_cast<std::int64_t>(n) * L;
    tiles[n]->load(first, first + L < task.batch ? first + L : task.batch);
    if (!tiles[n]->chooses()) return;
    each_part([&](int part, int from, int end) {
      double state[L], slope[L];
      tiles[n]->begin_squares(from, end, state, slope);
      sums[of_tile * n + part] = sum_lanes(state, tiles[n]->samples());
      sums[of_tile * n + part + 1] = sum_lanes(slope, tiles[n]->samples());
    });
  });
  double size = plan.control.first_step;
  if (tiles[0]->chooses()) {
    const double span = task.t1[0] - task.t0[0];
    const double d0 = root(0), d1 = root(1);
    const double h0 = Tile<Family>::tentative(d0, d1, span)[0];
    each_tile([&](int n, int) {
      double h[L];
      for (int l = 0; l < L; ++l) h[l] = h0;
      tiles[n]->look_ahead(h);
      each_part([&](int part, int from, int end) {
        double change[L];
        tiles[n]->change_squares(from, end, change);
        sums[of_tile * n + part] = sum_lanes(change, tiles[n]->samples());
      });
    });
    size = tiles[0]->first_size(d0, d1, root(0) / h0, h0, span)[0];
  }
  double error = 0;
  bool begun = false;
  do {
    each_tile([&](int n, int) {
      Tile<Family>& tile = *tiles[n];
      if (begun) {
        T errors[L];
        for (int l = 0; l < L; ++l) errors[l] = static_cast<T>(error);
        tile.settle(errors);
      } else {
        for (int l = 0; l < tile.samples(); ++l) tile.set_first(l, size);
        tile.begin_all();
      }
      double* const found = &sums[of_tile * n];
      std::fill_n(found, of_tile, 0.0);
      if (!tile.runs()) return;
      tile.attempt();
      each_part([&](int part, int from, int end) { tile.add_squares(from, end, found + part); });
    });
    begun = true;
    error = largest([&](int part, double entries) { return tiles[0]->relative(total(part), total(part + 1), entries); });
  } while (tiles[0]->runs());
}

// Whether it matters in which order samples take lanes: there is one to choose where some wait for a lane, and where it is
// not many, a lane that takes a long one at last keeps the others waiting.
template <class T>
bool order_matters(const Task<T>& task, const Control& control) {
  const std::int64_t carried = static_cast<std::int64_t>(lanes<T>) * task.threads;
  return std::isnan(control.first_step) && task.batch > carried && task.batch <= 16 * carried;
}

// Those with the smallest first step first, relative to how far they go: they will take the most steps.
template <class T>
void sort_samples(Beginnings<T>& beginnings, const Task<T>& task) {
  Array<double> shares(static_cast<std::size_t>(task.batch));
  for (std::int64_t s = 0; s < task.batch; ++s) {
    const double share = beginnings.size[s] / (task.t1[s] - task.t0[s]);
    shares[s] = share == share ? share : 0;  // those without a step end at once
    beginnings.order[s] = s;
  }
  std::sort(beginnings.order.data(), beginnings.order.data() + task.batch,
            [&](std::int64_t a, std::int64_t b) { return shares[a] < shares[b]; });
}

// Solves sample by sample: each thread takes those of its own where the steps are recorded, so that the sums of the way back
// have one order, and whatever is next where they are not.
template <class Family>
void solve_per_sample(const typename Family::Plan& plan, typename Family::Record* records) {
  using T = typename Family::Scalar;
  const Task<T>& task = plan.task;
  const std::unique_ptr<Array<T>[]> workspaces(new Array<T>[task.threads]);
  const std::unique_ptr<std::unique_ptr<Tile<Family>>[]> tiles(new std::unique_ptr<Tile<Family>>[task.threads]);
  if (task.trail) task.trail->parts(task.threads);
  std::atomic<std::int64_t> queue{0};
  const auto next = [&](std::int64_t& first, std::int64_t& end) {
    first = queue.fetch_add(lanes<T>);
    end = first + lanes<T> < task.batch ? first + lanes<T> : task.batch;
    return first < task.batch;
  };
  const auto each_tile = [&](auto f) {
    parallel(task.threads, task.interruption, [&](int i) {
      if (!tiles[i]) {
        allot(workspaces[i], Tile<Family>::workspace_rows(plan));
        tiles[i].reset(new Tile<Family>(plan, records ? records + i : nullptr, workspaces[i].data(), i));
      }
      f(*tiles[i], i);
    });
  };
  Beginnings<T> beginnings;
  const bool sorted = !records && order_matters(task, plan.control);
  if (sorted) {
    const std::size_t batch = static_cast<std::size_t>(task.batch);
    beginnings.size.resize(batch), beginnings.order.resize(batch);
    if (plan.carries_slope()) beginnings.slope.resize(batch * plan.program.dimension);
    each_tile([&](Tile<Family>& tile, int) {
      for (std::int64_t first, end; next(first, end); tile.note(beginnings)) tile.prepare(first, end);
    });
    sort_samples(beginnings, task);
    queue = 0;
  }
  each_tile([&](Tile<Family>& tile, int i) {
    std::int64_t at = share(task.batch, i, task.threads);
    const std::int64_t end_of_own = share(task.batch, i + 1, task.threads);
    const auto refill = [&] {
      std::int64_t first, end;
      if (records) {
        first = at;
        end = at = end_of_own - at < lanes<T> ? end_of_own : at + lanes<T>;
        if (first == end) return false;
      } else if (!next(first, end)) {
        return false;
      }
      if (sorted)
        tile.expect(beginnings, first, end);
      else
        tile.prepare(first, end);
      return true;
    };
    tile.run(refill, [&] { heed(task.interruption, i == 0); });
  });
}

template <class Family>
void carry(const typename Family::Plan& plan, typename Family::Record* records) {
  if (plan.control.joint)
    solve_joint<Family>(plan, records);
  else
    solve_per_sample<Family>(plan, records);
}

// No more threads than there are tiles.
template <class T>
int busy_threads(const Task<T>& task) {
  const std::int64_t tiles = (task.batch + lanes<T> - 1) / lanes<T>;
  return task.threads <= tiles ? task.threads : tiles > 1 ? static_cast<int>(tiles) : 1;
}

}  // namespace thalweg::THALWEG_ISA
