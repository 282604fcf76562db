#include "autograd/buckets.h"

#include <algorithm>

namespace taper {

std::vector<Range> gradient_buckets(const ParameterStore& store) {
  constexpr int64_t kBuckets = 8, kLargest = (int64_t{25} << 20) / int64_t{sizeof(float)};
  int64_t trained = 0;
  for (const Parameter& p : store.all())
    if (p.trainable && !p.is_statistic()) trained += p.size;
  const int64_t enough = std::min(kLargest, (trained + kBuckets - 1) / kBuckets);
  std::vector<Range> buckets;
  bool open = false;
  for (auto p = store.all().rbegin(); p != store.all().rend(); ++p) {
    if (p->is_statistic()) continue;
    if (!p->trainable) {
      open = false;
      continue;
    }
    if (!open) buckets.push_back({p->offset + p->size, p->offset + p->size});
    buckets.back().begin = p->offset;
    open = buckets.back().size() < enough;
  }
  return buckets;
}

int64_t Division::cut(const Range& range) const {
  const int64_t middle = range.begin + range.size() / 2;
  if (anywhere_) return middle;
  auto above = std::ranges::upper_bound(borders_, middle);
  const int64_t after = above == borders_.end() ? range.end : std::min(*above, range.end);
  const int64_t before = above == borders_.begin() ? range.begin : std::max(*std::prev(above), range.begin);
  return middle - before <= after - middle ? before : after;
}

Range Division::half(const Range& common, int64_t rank, int64_t distance) const {
  return (rank & distance) == 0 ? Range{common.begin, cut(common)} : Range{cut(common), common.end};
}

Range Division::part(Range whole, int64_t rank, int64_t ranks) const {
  for (int64_t distance = 1; distance < ranks; distance *= 2) whole = half(whole, rank, distance);
  return whole;
}

}  // namespace taper
