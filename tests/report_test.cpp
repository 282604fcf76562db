#include "recipes/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <fstream>
#include <regex>
#include <set>

#include "recipes/report_chart.h"
#include "recipes/report_words.h"
#include "recipes/run_history.h"
#include "recipes/run_log.h"
#include "runtime/error.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

class ReportTest : public testing::Test {
 protected:
  ReportTest() {
    std::string pattern = (fs::temp_directory_path() / "taper-report-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~ReportTest() override { fs::remove_all(folder_); }

  /// A run with every kind of event; its thin network is right on `thin_top1` of the images.
  fs::path make_run(int64_t seed, double thin_top1, std::vector<std::string> overrides = {}) {
    const fs::path run = folder_ / fmt::format("seed{}", seed);
    overrides.push_back(fmt::format("seed={}", seed));
    const Configuration configuration =
        read_configuration(TAPER_SOURCE_DIR "/recipes/configurations/tiny-resnet.toml", overrides);
    prepare_run_directory(run, configuration, false);
    RunLog log(run, measures_of(configuration));
    log.run({.configuration = write_configuration(configuration),
             .instruction_set = "AVX2",
             .libraries = {"oneDNN 2.6.3", "fmt <9>"},
             .cpu = "A & B",
             .command = fmt::format("taper train tiny.toml --set seed={}", seed)});
    for (const std::string stage : {"baseline", "wide"}) {
      log.stage_begin({.stage = stage, .steps = 8});
      for (int64_t step = 1; step <= 8; ++step)
        log.train({.stage = stage,
                   .step = step,
                   .loss = step == 5 ? std::nan("") : 2.0 / static_cast<double>(step)});
      for (int64_t step : {4, 8})
        log.evaluate({.stage = stage,
                      .step = step,
                      .network = stage,
                      .metrics = {0.1 * static_cast<double>(step), 0}});
      log.stage_end({.stage = stage, .steps = 8, .seconds = 90, .student_flops = 2e9});
    }
    log.stage_begin({.stage = "imitate", .steps = 4, .units = 2});
    for (int64_t unit : {0, 1}) {
      for (int64_t step = 1; step <= 4; ++step)
        log.train({.stage = "imitate", .unit = unit, .step = step, .loss = std::pow(0.1, step)});
      log.unit({.stage = "imitate",
                .unit = unit,
                .name = unit == 0 ? "layer1.0" : "layer2.0",
                .error_before = 0.75,
                .error_after = 0.043});
    }
    log.evaluate({.stage = "imitate",
                  .unit = 1,
                  .step = 4,
                  .network = "thin",
                  .metrics = {0.5, 0},
                  .skipped = seed == 2 ? 5678 : 0});
    log.stage_end({.stage = "imitate",
                   .steps = 4,
                   .units = 2,
                   .seconds = 30,
                   .student_flops = 1e9,
                   .teacher_flops = 7e9});
    log.network({.network = "baseline",
                 .parameters = 57058,
                 .flops = 8.4e6,
                 .metrics = {0.86, 0},
                 .items_per_s = 9876,
                 .training_flops = 1e12});
    log.network({.network = "wide",
                 .parameters = 321442,
                 .flops = 61e6,
                 .metrics = {0.91, 0},
                 .training_flops = 3e12});
    log.network({.network = "thin",
                 .parameters = 57058,
                 .flops = 8.4e6,
                 .loss = 0.35,
                 .metrics = {thin_top1, 0},
                 .training_flops = 1e12,
                 .teacher_flops = 4.56e12});
    if (seed == 2) log.skipped(1234);
    return run;
  }

  fs::path folder_;
};

template <typename Action>
std::string user_error_of(Action action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  return "(no error)";
}

/// The first tag that is closed wrongly, or empty. Attributes of the page never contain '>'.
std::string unbalanced_tag(const std::string& html) {
  static const std::regex kTag("<(/?)([a-zA-Z0-9]+)([^>]*)>");
  std::vector<std::string> open;
  const std::string body = html.substr(html.find("</style>") + 8);
  open = {"html", "head"};
  for (std::sregex_iterator it(body.begin(), body.end(), kTag), end; it != end; ++it) {
    const std::string name = (*it)[2], attributes = (*it)[3];
    if (attributes.ends_with('/')) continue;
    if ((*it)[1].length() == 0) {
      open.push_back(name);
    } else {
      if (open.empty() || open.back() != name) return name;
      open.pop_back();
    }
  }
  return open.empty() ? "" : open.back();
}

std::vector<std::string> matches(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  std::vector<std::string> all;
  for (std::sregex_iterator it(text.begin(), text.end(), regex), end; it != end; ++it)
    all.push_back((*it)[1]);
  return all;
}

TEST_F(ReportTest, OneRun) {
  const std::string html = report_html({make_run(1, 0.885)});
  EXPECT_EQ(unbalanced_tag(html), "");
  EXPECT_THAT(html, HasSubstr("<h1>Tiny</h1>"));
  EXPECT_THAT(
      html, HasSubstr("a residual network with 1 + 1 blocks (basic blocks, 8 channels in its first stage)"));
  EXPECT_THAT(html, HasSubstr("A network 2 times as wide inside each block was trained first"));
  EXPECT_THAT(html, HasSubstr("2.50 percentage points better")) << "88.5 % against 86 %";
  EXPECT_THAT(html, HasSubstr("1 seed cannot tell"));
  EXPECT_THAT(html, HasSubstr("<td>88.50 % <small>[1]</small></td><td>57,058</td><td>8.40 M</td>"));
  EXPECT_THAT(html, HasSubstr("<td>9,876</td><td>1.00 T</td><td>–</td></tr>")) << "baseline: no teacher";
  EXPECT_THAT(html, HasSubstr("<td>1.00 T</td><td>4.56 T</td></tr>")) << "the teacher has its own column";
  EXPECT_THAT(html, HasSubstr("<td>2 × 4</td><td>30 s</td><td>1.00 G</td><td>7.00 G</td>"));
  EXPECT_THAT(html, HasSubstr("Evaluated once: Thin, by way of wide 50.00 % at the end."));
  EXPECT_THAT(html, HasSubstr(">layer2.0</text>"));
  EXPECT_THAT(html, HasSubstr(">4.3\u2009%</text>"));
  EXPECT_THAT(html, HasSubstr("none was left out"));
  EXPECT_THAT(html, HasSubstr("taper train tiny.toml --set seed=1"));
  EXPECT_THAT(html, HasSubstr("depths = [1, 1]")) << "the resolved configuration";
}

TEST_F(ReportTest, SeveralSeedsGiveMeanAndSampleDeviation) {
  const std::vector<fs::path> runs = {make_run(1, 0.86), make_run(2, 0.88), make_run(3, 0.90)};
  const std::string html = report_html(runs);
  EXPECT_EQ(unbalanced_tag(html), "");
  EXPECT_THAT(html, HasSubstr("<td>88.00 ± 2.00 % <small>[3]</small></td>"));
  EXPECT_THAT(html, HasSubstr("<td>86.00 ± 0.00 % <small>[3]</small></td>"));
  // Paired differences 0, 2, 4 points: mean 2, deviation 2, t(2 degrees of freedom, 95 %) = 4.303, so
  // 2 -+ 4.303 * 2 / sqrt(3).
  EXPECT_THAT(html,
              HasSubstr("(95 % confidence interval -2.97 to +6.97, 3 seeds): chance alone may explain it."));
  EXPECT_THAT(html, HasSubstr("1,234 files could not be decoded and were left out of training (seed 2; "));
  EXPECT_THAT(html,
              HasSubstr("5,678 files could not be decoded and were left out of the test images (seed 2)"));
  EXPECT_THAT(html, Not(HasSubstr("training (seed 1")));
  EXPECT_THAT(html, Not(HasSubstr("images (seed 1)")));
  EXPECT_THAT(html, HasSubstr("--set seed=1\ntaper train tiny.toml --set seed=2\n"));
  EXPECT_EQ(report_html(runs), html) << "the same runs, the same bytes";
}

TEST_F(ReportTest, AccessibleAndSelfContained) {
  const std::string html = report_html({make_run(1, 0.86), make_run(2, 0.88)});
  for (const char* outside : {"http", "src=", "href=", "<script", "<link", "@import", "url("})
    EXPECT_THAT(html, Not(HasSubstr(outside)));
  for (const char* bad : {">nan", "\"nan", " nan ", "inf\"", "-nan", "not finite"})
    EXPECT_THAT(html, Not(HasSubstr(bad)));

  const auto ids = matches(html, " id=\"([^\"]*)\"");
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()).size(), ids.size()) << "ids are unique";
  const auto charts = matches(html, "(<svg[^>]*>)"),
             labelled = matches(html, "<svg[^>]*aria-labelledby=\"([^ ]*) ");
  EXPECT_EQ(charts.size(), 7u) << "accuracies, 3 losses, 2 accuracy curves, imitation errors";
  EXPECT_EQ(labelled.size(), charts.size());
  for (const std::string& id : labelled) EXPECT_THAT(ids, testing::Contains(id));
  EXPECT_EQ(matches(html, "(<th)[ >]").size(), matches(html, "(<th scope)").size());
  EXPECT_THAT(html, HasSubstr("<html lang=\"en\">"));

  for (const char* attribute : {"x", "x1", "x2", "cx"})
    for (const std::string& value : matches(html, fmt::format(" {}=\"([^\"]*)\"", attribute))) {
      EXPECT_GE(std::stod(value), 0);
      EXPECT_LE(std::stod(value), 420) << "inside the chart";
    }
}

TEST_F(ReportTest, TextIsEscaped) {
  const std::string html = report_html({make_run(1, 0.9, {"name=<b>&\"'"})});
  EXPECT_THAT(html, Not(HasSubstr("<b>&")));
  EXPECT_THAT(html, HasSubstr("<h1>&lt;b&gt;&amp;&quot;&#39;</h1>"));
  EXPECT_THAT(html, HasSubstr("<title>&lt;b&gt;"));
  EXPECT_THAT(html, HasSubstr("<dd>A &amp; B</dd>"));
  EXPECT_THAT(html, HasSubstr("fmt &lt;9&gt;"));
}

TEST_F(ReportTest, AnUnfinishedRunHasAReportToo) {
  const fs::path run = folder_ / "unfinished";
  prepare_run_directory(run, read_configuration(TAPER_SOURCE_DIR "/recipes/configurations/tiny-resnet.toml"),
                        false);
  RunLog(run, measures_of(read_run_configuration(run))).stage_begin({.stage = "wide", .steps = 8});
  std::ofstream(run / "metrics.jsonl", std::ios::app) << "{\"event\":\"train\",\"sta";  // cut by kill -9
  const std::string html = report_html({run});
  EXPECT_EQ(unbalanced_tag(html), "");
  EXPECT_THAT(html, HasSubstr("has not finished a network yet"));
  EXPECT_THAT(html, HasSubstr("<td>not finished</td>"));
}

TEST_F(ReportTest, MistakesAreNamed) {
  const fs::path one = make_run(1, 0.9), other = make_run(2, 0.9, {"wide.lr=0.25"});
  EXPECT_THAT(user_error_of([&] {
                report_html({one, other});
              }),
              HasSubstr("wide.lr is 0.1 there and 0.25 here"));
  EXPECT_THAT(user_error_of([&] { report_html({}); }), HasSubstr("at least one"));
  EXPECT_THAT(user_error_of([&] { report_html({folder_}); }), HasSubstr("not a run directory"));
  std::ofstream(one / "metrics.jsonl") << "{\"event\":\"data\",\"skipped\":1}\n{\"event\":\"data\"}\n";
  EXPECT_THAT(user_error_of([&] { report_html({one}); }), HasSubstr("metrics.jsonl:2:"));
}

TEST_F(ReportTest, HistoryReadsBackWhatWasLogged) {
  const RunHistory history = read_history(make_run(2, 0.9));
  EXPECT_EQ(history.configuration.seed, 2);
  EXPECT_EQ(history.run.cpu, "A & B");
  EXPECT_EQ(history.version, "0.1.0");
  ASSERT_EQ(history.stages.size(), 3u);
  EXPECT_EQ(history.stages[2].teacher_flops, 7e9);
  EXPECT_EQ(history.train.size(), 8u + 8 + 2 * 4);
  EXPECT_TRUE(std::isnan(history.train[4].loss));
  EXPECT_EQ(history.train.back().unit, 1);
  EXPECT_EQ(history.evaluate.size(), 5u);
  EXPECT_EQ(history.units[1].name, "layer2.0");
  EXPECT_EQ(history.networks[2].teacher_flops, 4.56e12);
  EXPECT_EQ(history.skipped, 1234);
  EXPECT_EQ(history.evaluate.back().skipped, 5678);
}

TEST(ReportWords, NumbersForPeople) {
  EXPECT_EQ(grouped(1234567), "1,234,567");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(scaled(0), "0");
  EXPECT_EQ(scaled(999.4), "999");
  EXPECT_EQ(scaled(999.6), "1.00 k");
  EXPECT_EQ(scaled(99.96e6), "100 M");
  EXPECT_EQ(scaled(12.34e12), "12.3 T");
  const std::vector<double> same = {0.5, 0.5, 0.5, 0.5, 0.5}, better = {0.51, 0.52, 0.51, 0.52, 0.51};
  EXPECT_THAT(comparison_words(better, same), HasSubstr("1.40 percentage points better"));
  EXPECT_THAT(comparison_words(better, same), HasSubstr("more than chance explains"));
  EXPECT_THAT(comparison_words(same, better), HasSubstr("worse"));
  EXPECT_EQ(comparison_words({}, {}), "");
}

TEST(ReportChart, TicksAreRoundAndCoverTheData) {
  LineChart chart{.title = "t", .description = "d", .lines = {{"thin", {{{1, 0.34}, {471, 2.28}}}}}};
  std::string svg = line_chart(chart);
  EXPECT_EQ(matches(svg, "class=\"tick end\">([^<]*)<"),
            (std::vector<std::string>{"0.0", "0.5", "1.0", "1.5", "2.0", "2.5"}));
  EXPECT_EQ(matches(svg, "class=\"tick middle\">([^<]*)<"),
            (std::vector<std::string>{"0", "200", "400", "step"}));
  chart.logarithmic = true;
  chart.lines[0].strokes = {{{1, 0}, {2, 0.001}, {3, 10}}};
  EXPECT_EQ(matches(line_chart(chart), "class=\"tick end\">([^<]*)<"),
            (std::vector<std::string>{"0.001", "0.01", "0.1", "1", "10"}))
      << "a value of 0 has no place on a logarithmic axis";
  chart.lines[0].strokes = {{{1, 1.8}, {2, 5.5}}};
  EXPECT_EQ(matches(line_chart(chart), "class=\"tick end\">([^<]*)<"),
            (std::vector<std::string>{"2", "3", "5"}));
  chart.lines[0].strokes = {{{1, std::nan("")}}};
  EXPECT_THAT(line_chart(chart), HasSubstr("Nothing was recorded."));
}

// In a real browser, at desktop and phone width.
TEST_F(ReportTest, NeedsNoHorizontalScrollingInABrowser) {
  if (std::system("command -v chromium >/dev/null") != 0) GTEST_SKIP() << "chromium is not installed";
  const fs::path page = folder_ / "report.html";
  write_report(page, {make_run(1, 0.86), make_run(2, 0.88, {})});
  const std::string command = fmt::format("{}/scripts/check-report.sh {}", TAPER_SOURCE_DIR, page.string());
  EXPECT_EQ(std::system(command.c_str()), 0);
}

}  // namespace
}  // namespace taper
