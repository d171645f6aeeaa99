// The command line of ringfence.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "runtime/commands.h"
#include "runtime/options.h"
#include "runtime/sandbox.h"

namespace {

using namespace rf;
using namespace rf::runtime;

constexpr const char* kRunFooter = R"(
Exit status: the command's own; 128+N if signal N ended it; 124 on --timeout; 126 if the command cannot be
run, 127 if it is not there; 125 if Ringfence itself failed.

Examples:
  ringfence run -- /bin/bash -c 'uname -a; echo hello from $$'
  ringfence run --volume "$PWD":/src:ro --cwd /src -- make -n
  ringfence run --memory 512M --timeout 30s --strace=/tmp/trace -- python3 untrusted.py)";

// Makes a CLI11 option that goes through one of our parsers, whose error it shows.
template <class T, class Parse>
CLI::Option* add_parsed(CLI::App& app, const std::string& name, T& target, Parse parse, const std::string& help) {
  return app.add_option_function<std::string>(
      name,
      [&target, parse](const std::string& text) {
        auto value = parse(text);
        if (!value) throw CLI::ValidationError(value.error().message);
        target = *std::move(value);
      },
      help);
}

void add_run(CLI::App& app, RunOptions& o) {
  CLI::App& run = *app.add_subcommand("run", "Run a command in a new sandbox");
  run.footer(kRunFooter);
  run.add_option("--root", o.root, "Host directory that becomes /, itself never written to")
      ->type_name("DIR")
      ->capture_default_str();
  add_parsed(run, "--overlay", o.overlay, parse_overlay,
             "Where writes go: memory (gone at the end) or none (read-only root)")
      ->type_name("memory|none")
      ->default_str("memory");
  run.add_option_function<std::vector<std::string>>(
         "--volume,-v",
         [&o](const std::vector<std::string>& values) {
           for (const std::string& v : values) {
             auto volume = parse_volume(v);
             if (!volume) throw CLI::ValidationError(volume.error().message);
             o.volumes.push_back(*volume);
           }
         },
         "Host directory or file to show at GUEST, writable unless :ro; may be repeated")
      ->type_name("HOST:GUEST[:ro]")
      ->allow_extra_args(false);
  run.add_option("--cwd", o.cwd, "Working directory (default: the current one if it is in the sandbox, else /)")
      ->type_name("DIR");
  run.add_option("--env,-e", o.env, "Set K to V, or pass the caller's K; may be repeated")
      ->type_name("K[=V]")
      ->allow_extra_args(false);
  add_parsed(run, "--user,-u", o.user, parse_user, "Run as this user and group (default: the caller's)")
      ->type_name("UID[:GID]");
  run.add_option("--hostname", o.hostname, "Host name in the sandbox")->type_name("NAME")->capture_default_str();
  add_parsed(run, "--memory,-m", o.memory, parse_size, "Most memory the sandbox may use (default: half of the host's)")
      ->type_name("SIZE");
  run.add_option("--vcpus", o.vcpus, "Virtual CPUs (default: as many as this process may use)")
      ->type_name("N")
      ->check(CLI::Range(1, 64));
  add_parsed(run, "--timeout", o.timeout, parse_duration, "Kill the sandbox after this long")->type_name("DURATION");
  add_parsed(run, "--platform", o.platform, parse_platform,
             "How guest code runs: by KVM, in processes whose system calls are trapped, or whichever is faster here")
      ->type_name("auto|kvm|trap")
      ->default_str("auto");
  add_parsed(run, "--kvm-mode", o.kvm_mode, parse_kvm_mode,
             "Where the sentry runs on KVM: in the guest's ring 0, in the host (exit), or whichever is fit")
      ->type_name("auto|ring0|exit")
      ->default_str("auto");
  add_parsed(run, "--submission-thread", o.submission_thread, parse_submission_thread,
             "Whether a thread of the host kernel's takes file requests from memory under load; auto: in ring-0 mode, "
             "where a CPU can be spared")
      ->type_name("auto|on|off")
      ->default_str("auto");
  run.add_option_function<std::string>(
         "--strace",
         [&o](const std::string& file) {
           o.strace = true;
           o.strace_file = file;
         },
         "Show the guest's system calls, on stderr or in FILE (write --strace=FILE)")
      ->type_name("[=FILE]")
      ->expected(0, 1)
      ->default_str("");
  run.add_flag("--stats", o.stats, "At the end say how often what happened: calls, faults, exits, and where time went");
  run.add_flag("-T", o.strace_durations, "With --strace: how long each call took");
  add_parsed(
      run, "--log-level", o.log_level,
      [](std::string_view name) -> Setup<log::Level> {
        if (Result<log::Level> level = log::parse_level(name)) return *level;
        return setup_error("levels are trace, debug, info, warning, error, off");
      },
      "Ringfence's own messages: trace, debug, info, warning, error or off (default: warning)")
      ->type_name("LEVEL");
  run.add_option("--log", o.log_file, "Write them to FILE instead of stderr")->type_name("FILE");
}

// Splits the arguments of `run` where the command begins: at "--", or at the first word that is neither an option nor
// an option's value. What follows is the command's own, whatever it looks like.
std::vector<std::string> take_command(const CLI::App& run, std::vector<std::string>& args) {
  if (args.empty() || args[0] != "run") return {};
  for (size_t i = 1; i < args.size(); ++i) {
    const bool separator = args[i] == "--";
    if (separator || !args[i].starts_with('-') || args[i] == "-") {
      std::vector<std::string> command(args.begin() + static_cast<long>(i) + separator, args.end());
      args.resize(i);
      return command;
    }
    // A bare --strace has no value: only --strace=FILE names a file.
    if (args[i] == "--strace") args[i] = "--strace=";
    const CLI::Option* option = run.get_option_no_throw(args[i]);
    if (option != nullptr && option->get_items_expected_min() > 0) ++i;
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Ringfence runs unmodified Linux programs behind a kernel of its own."};
  app.name("ringfence");
  app.require_subcommand(1);
  app.set_version_flag("--version", "ringfence " RF_VERSION);
  RunOptions run_options;
  add_run(app, run_options);
  bool json = false;
  CLI::App& doctor =
      *app.add_subcommand("doctor", "Check what this host offers, and say what to do about what is missing");
  CLI::App& syscalls = *app.add_subcommand("syscalls", "List the system calls and how complete each is");
  syscalls.add_flag("--json", json, "As JSON");
  CLI::App& version = *app.add_subcommand("version", "Print the version");

  std::vector<std::string> args(argv + 1, argv + argc);
  run_options.command = take_command(*app.get_subcommand("run"), args);
  const auto is_called = [&](const CLI::App* sub) { return sub->get_name() == args[0]; };
  if (!args.empty() && !args[0].starts_with('-') && app.get_subcommands(is_called).empty()) {
    std::fprintf(stderr, "ringfence: there is no '%s'; to run a program: ringfence run -- %s\n", args[0].c_str(),
                 args[0].c_str());
    return kExitFailure;
  }
  std::reverse(args.begin(), args.end());  // as CLI11's vector form wants them
  try {
    app.parse(args);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::fprintf(stderr, "ringfence: %s\nTry 'ringfence --help' or 'ringfence run --help'.\n", e.what());
    return kExitFailure;
  }
  if (doctor.parsed()) return run_doctor();
  if (syscalls.parsed()) return list_syscalls(json);
  if (version.parsed()) {
    std::puts("ringfence " RF_VERSION);
    return 0;
  }
  if (run_options.command.empty()) {
    std::fprintf(stderr, "ringfence: no command to run\nusage: ringfence run [OPTIONS] [--] COMMAND [ARG...]\n");
    return kExitFailure;
  }
  return run_sandbox(run_options);
}
