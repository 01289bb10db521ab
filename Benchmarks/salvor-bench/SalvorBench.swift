import Benchmarks
import Console
import Core

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

@main
struct SalvorBench {
  static func main() async { exit(await run(Array(CommandLine.arguments.dropFirst()))) }

  private static let usage =
    "usage: salvor-bench --list | NAME [--tiny] [--json FILE] [--directory PARENT] [--set KEY=VALUE …]"

  /// 0 when every bar holds, 1 when one doesn't, 2 when it couldn't run.
  private static func run(_ arguments: [String]) async -> Int32 {
    if arguments == ["--list"] {
      for benchmark in BenchmarkRegistry.all { print("\(benchmark.name)\t\(benchmark.summary)") }
      return 0
    }
    var rest = arguments[...]
    var scale = BenchmarkScale.full
    var (name, json, parent): (String?, String?, String?) = (nil, nil, nil)
    var options: [String: String] = [:]
    while let argument = rest.popFirst() {
      switch argument {
      case "--tiny": scale = .tiny
      case "--json": json = rest.popFirst()
      case "--directory": parent = rest.popFirst()
      case "--set":
        let parts = (rest.popFirst() ?? "").split(separator: "=", maxSplits: 1).map(String.init)
        guard parts.count == 2 else {
          standardError(usage + "\n")
          return 2
        }
        options[parts[0]] = parts[1]
      default: name = argument
      }
    }
    guard let benchmark = BenchmarkRegistry.all.first(where: { $0.name == name }) else {
      standardError(usage + "\n")
      return 2
    }
    do {
      let rows = try await BenchmarkRunner.run(benchmark, scale: scale, below: parent, options: options)
      for line in BenchmarkReport.lines(rows, .plain) { print(line) }
      if let json { try BenchmarkRunner.write(rows, to: json) }
      return rows.contains { $0.holds == false } ? 1 : 0
    } catch {
      standardError("salvor-bench: \(error)\n")
      return 2
    }
  }
}
