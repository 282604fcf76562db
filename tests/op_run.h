#pragma once
// One run of a case on a backend: arguments between guard words, and what came of it.

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/op_table.h"

namespace taper::ops {

/// The type of an argument's elements where `type` is under test.
DType element_type(Kind kind, DType type);

/// Outputs and updates after a call, as bytes and in double, and what was written where nothing should be.
struct Outcome {
  std::map<std::string, std::vector<uint8_t>> bytes;
  Values values;
  std::vector<std::string> complaints;
  bool operator==(const Outcome& other) const { return bytes == other.bytes; }
};

using Alias = std::pair<std::string, std::string>;

/// Where arguments begin: aligned as an allocation is, or one element later, as a slice may.
enum class Place { aligned, odd };

/// Calls the case's op with DType `type`; with an alias, its first name's memory is that of its second.
Outcome run(Backend& backend, Stream& stream, DType type, const Case& op_case,
            const std::optional<Alias>& alias = {}, Place place = Place::aligned);

}  // namespace taper::ops
