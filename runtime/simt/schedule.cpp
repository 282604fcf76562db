#include "runtime/simt/schedule.h"

#include <cuda_runtime_api.h>

#include <charconv>
#include <cstdlib>
#include <string>

#include "runtime/error.h"
#include "runtime/simt/queue.h"

namespace taper::simt {

namespace {

constexpr const char* kVariable = "TAPER_SIMT_SCHEDULE";

Schedule from_environment() {
  const char* text = std::getenv(kVariable);
  return text == nullptr ? Schedule{} : parse_schedule(text);
}

Schedule& current() {
  static Schedule schedule = from_environment();
  return schedule;
}

}  // namespace

void set_schedule(const Schedule& schedule) {
  cudaDeviceSynchronize();
  current() = schedule;
  reseed_streams();
}

const Schedule& schedule() { return current(); }

Schedule parse_schedule(std::string_view text) {
  Schedule schedule;
  while (!text.empty()) {
    std::string_view part = text.substr(0, text.find(','));
    text.remove_prefix(part.size() < text.size() ? part.size() + 1 : part.size());
    if (part == "order=fixed") {
      schedule.order = Schedule::Order::kFixed;
    } else if (part == "order=random") {
      schedule.order = Schedule::Order::kRandom;
    } else if (part == "copies=early") {
      schedule.copies = Schedule::Copies::kEarly;
    } else if (part == "copies=late") {
      schedule.copies = Schedule::Copies::kLate;
    } else if (part == "copies=random") {
      schedule.copies = Schedule::Copies::kRandom;
    } else if (part == "streams=eager") {
      schedule.streams = Schedule::Streams::kEager;
    } else if (part == "streams=late") {
      schedule.streams = Schedule::Streams::kLate;
    } else {
      std::string_view digits = part.substr(part.find('=') + 1);
      auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), schedule.seed);
      if (!part.starts_with("seed=") || error != std::errc() || end != digits.data() + digits.size())
        throw UserError(
            "{}: '{}' is not understood; it takes order=fixed|random, copies=early|late|random, "
            "streams=eager|late and seed=NUMBER, separated by commas",
            kVariable, part);
    }
  }
  return schedule;
}

}  // namespace taper::simt
