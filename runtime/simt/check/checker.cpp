#include "runtime/simt/check/checker.h"

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "runtime/error.h"
#include "runtime/simt/index.h"
#include "runtime/simt/worker.h"

namespace taper::simt {

namespace {

constexpr size_t kStaticBytes = size_t{4} << 20;  // of all kernels' shared arrays together
constexpr size_t kBefore = 64;                    // in front of a block: probably meant to be in it
constexpr size_t kKeptBytes = size_t{64} << 20;

const char* verb(Checker::Kind kind) {
  return kind == Checker::Kind::kRead ? "reads" : kind == Checker::Kind::kWrite ? "writes" : "updates";
}

uintptr_t number(const void* address) { return reinterpret_cast<uintptr_t>(address); }

// Whether it is a constant of the program, such as a table.
bool constant(uintptr_t address) {
  struct Search {
    uintptr_t address;
    bool found = false;
  } search{address};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& search = *static_cast<Search*>(data);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr)& part = info->dlpi_phdr[i];
          if (part.p_type == PT_LOAD && (part.p_flags & PF_W) == 0)
            search.found |= search.address - (info->dlpi_addr + part.p_vaddr) < part.p_memsz;
        }
        return 0;
      },
      &search);
  return search.found;
}

// Calls use(word, mask) for each four bytes of which some, those in the mask, are meant.
template <typename Use>
void for_words(size_t offset, size_t bytes, Use use) {
  for (size_t end = offset + bytes; offset < end;) {
    size_t word = offset / 4 * 4, next = std::min(end, word + 4);
    use(word, ((1U << (next - word)) - 1) & ~((1U << (offset - word)) - 1));
    offset = next;
  }
}

}  // namespace

Cells::Cells(size_t bytes) : size_((bytes + 3) / 4 * sizeof(Cell)) {
  void* memory =
      mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw Failure("the checker has no memory to follow {} bytes", bytes);
  cells_ = static_cast<Cell*>(memory);
}

Cells::~Cells() { munmap(cells_, size_); }

Checker& Checker::instance() {
  static Checker checker;
  return checker;
}

Checker::Checker()
    : dynamic_cells_(kMaximumSharedBytes),
      static_cells_(kStaticBytes),
      dynamic_contents_(kMaximumSharedBytes / 4),
      static_contents_(kStaticBytes / 4) {}

void Checker::allocated(void* block, size_t bytes) {
  std::lock_guard lock(blocks_mutex_);
  blocks_[number(block)] = {.bytes = bytes,
                            .freed = false,
                            .cells = std::make_unique<Cells>(bytes),
                            .written = std::vector<uint8_t>((bytes + 3) / 4)};
  blocks_changed_ = true;
}

void Checker::released(void* block) {
  std::lock_guard lock(blocks_mutex_);
  Block& freed = blocks_[number(block)];
  freed.freed = true;
  kept_.push_back(block);
  kept_bytes_ += freed.bytes;
  blocks_changed_ = true;
  while (kept_bytes_ > kKeptBytes) {
    auto oldest = blocks_.find(number(kept_.front()));
    kept_bytes_ -= oldest->second.bytes;
    blocks_.erase(oldest);
    std::free(kept_.front());
    kept_.pop_front();
  }
}

void Checker::filled(void* destination, size_t bytes) {
  std::lock_guard lock(blocks_mutex_);
  auto [first, block] = find_block(number(destination));
  if (block == nullptr) return;
  for_words(number(destination) - first, bytes,
            [&](size_t word, uint32_t mask) { block->written[word / 4] |= static_cast<uint8_t>(mask); });
}

void Checker::copied(void* destination, const void* source, size_t bytes) {
  std::lock_guard lock(blocks_mutex_);
  auto [to_first, to] = find_block(number(destination));
  auto [from_first, from] = find_block(number(source));
  size_t at = number(destination) - to_first, there = number(source) - from_first;
  for (; bytes > 0; ++at, ++there, --bytes) {
    const uint8_t bit = static_cast<uint8_t>(1U << at % 4);
    if ((from->written[there / 4] >> there % 4 & 1) != 0)
      to->written[at / 4] |= bit;
    else
      to->written[at / 4] &= static_cast<uint8_t>(~bit);
  }
}

void Checker::begin_launch(const Launch& launch) {
  launch_ = &launch;
  clock_.begin_launch();
  counting_ = count_;
  index_variables_ = {number(&threadIdx), number(&blockIdx), number(&blockDim), number(&gridDim)};
  const auto& arrays = shared_arrays();
  if (arrays.empty()) return;
  static_ = (number(&threadIdx) + static_cast<uintptr_t>(arrays.front().offset)) & ~uintptr_t{15};
  uintptr_t end = number(&threadIdx) + static_cast<uintptr_t>(arrays.back().offset) + arrays.back().bytes;
  static_bytes_ = end - static_;
  if (static_bytes_ > kStaticBytes)
    throw Failure("the checker has no room for {} bytes of shared arrays", static_bytes_);
}

void Checker::end_launch() {
  if (counting_) counts_.end_launch(launch_->symbol->name);
  launch_ = nullptr;
}

void Checker::begin_block(const void* dynamic_shared) {
  clock_.begin_block();
  block_ = clock_.now();
  dynamic_ = number(dynamic_shared);
  if (counting_) counts_.meet_all();  // this block's requests are its own
}

void Checker::barrier() {
  clock_.barrier();
  if (counting_) counts_.meet_all();
}

void Checker::meet(uint32_t warp) {
  if (counting_) counts_.meet(warp);
}

void Checker::access(const void* pointer, uint32_t bytes, Kind kind, uint16_t site) {
  uintptr_t address = number(pointer);
  // The thread's own variables lie on its fiber's stack.
  if (address / Fiber::kStackBytes == number(__builtin_frame_address(0)) / Fiber::kStackBytes) return;
  for (uintptr_t variable : index_variables_)
    if (address - variable < sizeof(uint3)) return;
  Shared place;
  bool shared = find_shared(address, bytes, site, place);
  if (counting_) {
    uint32_t thread = Worker::of_this_thread().thread();
    if (shared || find_global(address).block != nullptr)
      counts_.access(thread, site, shared, kind != Kind::kRead, address, bytes);
  }
  if (shared)
    use_shared(place, bytes, kind, site);
  else
    use_global(address, bytes, kind, site);
}

bool Checker::find_shared(uintptr_t address, uint32_t bytes, uint16_t site, Shared& place) {
  if (size_t offset = address - dynamic_; offset < kMaximumSharedBytes) {
    if (offset + bytes > launch_->shared_bytes)
      fail(fmt::format("{} bytes at byte {} of dynamic shared memory are beyond the {} that the launch gives",
                       bytes, offset, launch_->shared_bytes),
           site);
    place = {&dynamic_cells_, &dynamic_contents_, offset, 0, nullptr};
    return true;
  }
  if (address - static_ >= static_bytes_) return false;
  int64_t from_index = static_cast<int64_t>(address - number(&threadIdx));
  const auto& arrays = shared_arrays();
  auto after = std::ranges::upper_bound(arrays, from_index, {}, &SharedArray::offset);
  if (after == arrays.begin()) return false;
  const SharedArray& array = *std::prev(after);
  int64_t offset = from_index - array.offset;
  if (offset + bytes > static_cast<int64_t>(array.bytes))
    fail(fmt::format("{} bytes at byte {} are beyond the {} of the shared array {}", bytes, offset,
                     array.bytes, array.name()),
         site);
  place = {&static_cells_, &static_contents_, address - static_,
           address - static_ - static_cast<size_t>(offset), &array};
  return true;
}

void Checker::use_shared(const Shared& place, uint32_t bytes, Kind kind, uint16_t site) {
  auto where = [&] { return place.array == nullptr ? "dynamic shared memory" : place.array->name(); };
  for_words(place.offset, bytes, [&](size_t word, uint32_t mask) {
    Content& content = (*place.contents)[word / 4];
    if (content.block != block_) content = {.block = block_};
    if ((content.in_flight & mask) != 0)
      fail(
          fmt::format(
              "{} bytes of {} that the cp.async at {} may not have written yet: no cp_async_wait came before",
              verb(kind), where(), sites_.text(content.site)),
          site);
    order(place.cells->of(word), mask, kind, site, true);
    if (kind == Kind::kWrite)
      content.written |= static_cast<uint8_t>(mask);
    else if ((content.written & mask) != mask)
      fail(fmt::format("{} byte {} of {}, which no thread of the block has written so far", verb(kind),
                       place.offset - place.first, where()),
           site);
  });
}

Checker::Range Checker::find_global(uintptr_t address) {
  if (blocks_changed_.load(std::memory_order_relaxed)) {
    blocks_changed_ = false;
    recent_.fill({});
  }
  for (const Range& range : recent_)
    if (range.block != nullptr && address - range.first < range.block->bytes) return range;
  std::lock_guard lock(blocks_mutex_);
  Range found = find_block(address);
  if (found.block != nullptr) recent_[oldest_++ % recent_.size()] = found;
  return found;
}

// Of blocks_, whose mutex is held.
Checker::Range Checker::find_block(uintptr_t address) {
  auto after = blocks_.upper_bound(address);
  if (after == blocks_.begin()) return {};
  auto& [first, block] = *std::prev(after);
  if (address - first >= block.bytes) return {};
  return {first, &block};
}

void Checker::use_global(uintptr_t address, uint32_t bytes, Kind kind, uint16_t site) {
  Range range = find_global(address);
  if (range.block == nullptr || range.block->freed || address - range.first + bytes > range.block->bytes)
    return use_other(address, bytes, kind, site);
  if (kind == Kind::kAtomic) clock_.atomic();
  for_words(address - range.first, bytes, [&](size_t word, uint32_t mask) {
    order(range.block->cells->of(word), mask, kind, site, false);
    uint8_t& written = range.block->written[word / 4];
    if (kind == Kind::kWrite)
      written |= static_cast<uint8_t>(mask);
    else if ((written & mask) != mask)
      fail(fmt::format(
               "{} {} bytes at byte {} of a block of {} bytes, some of which nothing has written so far",
               verb(kind), bytes, address - range.first, range.block->bytes),
           site);
  });
}

void Checker::order(Cell& cell, uint32_t mask, Kind kind, uint16_t site, bool shared) {
  Access access = Access::of(clock_.now(), Worker::of_this_thread().thread(), mask, kind != Kind::kRead,
                             kind == Kind::kAtomic, site);
  const Access* earlier = add(cell, access, clock_, shared);
  if (earlier == nullptr) return;
  bool same_block = earlier->time >= block_;
  uint32_t thread = earlier->thread;
  fail(fmt::format("a race: {} {} memory that thread ({},{},{}) of {} {} at {}, and nothing orders the two",
                   verb(kind), shared ? "shared" : "global", thread % blockDim.x,
                   thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y,
                   same_block ? "this block" : "another block", earlier->write ? "writes" : "reads",
                   sites_.text(earlier->site)),
       site);
}

void Checker::load_row(const void* shared, std::source_location where) {
  uint16_t site = sites_.of_line(where);
  Shared place;
  if (!find_shared(number(shared), 16, site, place)) fail("ldmatrix of what is not shared memory", site);
  access(shared, 16, Kind::kRead, site);
}

void Checker::begin_copy(const void* shared, const void* global, uint32_t bytes, std::source_location where) {
  uint16_t site = sites_.of_line(where);
  const uint32_t thread = Worker::of_this_thread().thread();
  if (global != nullptr)
    access(global, bytes, Kind::kRead, site);
  else if (counting_)
    counts_.skip(thread, site, false, false);  // later copies of the warp are one request all the same
  Shared place;
  if (!find_shared(number(shared), bytes, site, place))
    fail("a cp.async writes what is not shared memory", site);
  if (counting_) counts_.access(thread, site, true, true, number(shared), bytes);
  use_shared(place, bytes, Kind::kWrite, site);
  for_words(place.offset, bytes, [&](size_t word, uint32_t mask) {
    Content& content = (*place.contents)[word / 4];
    content.in_flight |= static_cast<uint8_t>(mask);
    content.site = site;
  });
}

void Checker::end_copy(const void* shared, uint32_t bytes, std::source_location where) {
  uint16_t site = sites_.of_line(where);
  Shared place;
  find_shared(number(shared), bytes, site, place);
  for_words(place.offset, bytes, [&](size_t word, uint32_t mask) {
    (*place.contents)[word / 4].in_flight &= static_cast<uint8_t>(~mask);
  });
  use_shared(place, bytes, Kind::kWrite, site);
}

void Checker::misaligned(const void* address, uint32_t bytes, uint16_t site) {
  fail(fmt::format("an access of {} bytes at {}, which is not aligned to them", bytes, address), site);
}

void Checker::fail(std::string message, uint16_t site) {
  Worker::of_this_thread().fail(std::move(message), sites_.text(site));
}

// An address that is in no block of the device, or in one that is free.
void Checker::use_other(uintptr_t address, uint32_t bytes, Kind kind, uint16_t site) {
  if (address - number(launch_->arguments.get()) < launch_->argument_bytes) return;
  if (kind == Kind::kRead && constant(address)) return;
  fail(fmt::format("{} {} bytes at {:#x}, {}", verb(kind), bytes, address, describe(address)), site);
}

std::string Checker::describe(uintptr_t address) {
  std::lock_guard lock(blocks_mutex_);
  auto after = blocks_.upper_bound(address);
  if (after != blocks_.begin()) {
    const auto& [first, block] = *std::prev(after);
    if (address - first < block.bytes + kRedZone)
      return fmt::format("byte {} of {} of {} bytes", address - first,
                         block.freed ? "a freed block" : "a block", block.bytes);
  }
  if (after != blocks_.end() && after->first - address <= kBefore)
    return fmt::format("{} bytes before a block of {} bytes", after->first - address, after->second.bytes);
  return "which is no memory of the device";
}

void Checker::count(bool count) {
  std::lock_guard lock(one_grid_);
  count_ = count;
  if (count) counts_ = {};
}

}  // namespace taper::simt
