// What all tiles of a solve share, whatever the method.

#pragma once

#include "kernels.hpp"
#include "rows.hpp"
#include "solve.hpp"

namespace thalweg::THALWEG_ISA {

// Made once, and read by all threads.
template <class T>
struct Plan {
  const Program& program;
  const Control& control;
  const Task<T>& task;
  Array<T> packed;                     // panels of all weights, and of their transposes
  Array<const T*> panels, transposed;  // of each instruction
  Shared<T> shared;

  // `derivative`: whether that of the program will be asked for.
  Plan(const Program& program, const Control& control, const Task<T>& task, bool derivative)
      : program(program), control(control), task(task) {
    pack_weights(derivative);
  }

  T rtol(int row) const { return task.rtol[row * task.rtol_step]; }
  T atol(int row) const { return task.atol[row * task.atol_step]; }

private:
  void pack_weights(bool derivative) {
    std::size_t total = 0;
    const std::size_t count = program.code.size();
    const auto entries = [](const Instruction& code) {  // rounded up, so that each begins at a cache line
      return (static_cast<std::size_t>(code.index[1]) * code.index[2] + 15) / 16 * 16;
    };
    for (const Instruction& code : program.code)
      if (code.op == Op::linear) total += entries(code) * (derivative ? 2 : 1);
    packed.resize(total);
    panels.resize(count);
    transposed.resize(count);
    T* at = packed.data();
    for (std::size_t i = 0; i < count; ++i) {
      const Instruction& code = program.code[i];
      panels[i] = transposed[i] = nullptr;
      if (code.op != Op::linear) continue;
      const int rows = code.index[1], columns = code.index[2];
      const T* weight = task.shared[code.operands[1].number] + code.operands[1].row;
      pack(weight, rows, columns, columns, 1, at);
      panels[i] = at;
      at += entries(code);
      if (!derivative) continue;
      pack(weight, columns, rows, 1, columns, at);
      transposed[i] = at;
      at += entries(code);
    }
    shared = {task.shared.data(), panels.data(), transposed.data()};
  }
};

// Where an evaluation finds its numbers.
template <class T>
Frame<T> frame_of(T* scratch, T* saved, T* time, T* state, T* slope, T* own) {
  Frame<T> f;
  f.at[static_cast<int>(Place::scratch)] = scratch;
  f.at[static_cast<int>(Place::saved)] = saved;
  f.at[static_cast<int>(Place::state)] = state;
  f.at[static_cast<int>(Place::time)] = time;
  f.at[static_cast<int>(Place::slope)] = slope;
  f.at[static_cast<int>(Place::own)] = own;
  return f;
}

}  // namespace thalweg::THALWEG_ISA
