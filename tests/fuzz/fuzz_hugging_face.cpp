// Any bytes as a transformers config.json: UserError, or a BERT whose own config.json reads back the same.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "recipes/hugging_face.h"
#include "runtime/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace taper;
  BertSpec spec;
  try {
    spec = parse_bert_config({reinterpret_cast<const char*>(data), size}, "input");
  } catch (const UserError&) {
    return 0;
  }
  constexpr int64_t kMost = 64;  // of classes: each is two lines of the file
  if (spec.classes <= kMost) spec.head = BertSpec::Head::classification;
  const std::string text = write_bert_config(spec);
  BertSpec again = parse_bert_config(text, "again");
  again.head = spec.head;
  if (spec.head == BertSpec::Head::encoder) again.classes = spec.classes;
  if (write_bert_config(again) != text) std::abort();
  return 0;
}
