// Python's objects, looked at from here.

#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

namespace thalweg {

// Where a tensor's numbers lie; 0 of None.
std::uintptr_t address_of(nanobind::handle tensor);

void bind_objects(nanobind::module_& m);

}  // namespace thalweg
