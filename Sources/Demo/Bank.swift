import Core
import Foundation
import IO
import Subprocess

/// The small bank of the demo: real services, run by the program `salvor-bank`, below one directory.
package struct Bank: Sendable {
  /// The program.
  package let program: String
  /// Holds everything of the bank's.
  package let directory: String
  package let engines: Bool
  package let basePort: Int

  package init(program: String, directory: String, engines: Bool, basePort: Int) {
    (self.program, self.directory, self.engines, self.basePort) = (program, directory, engines, basePort)
  }

  package var services: [String] {
    ["ledger", "accounts", "sessions", "statements", "gateway"] + (engines ? ["events", "notices"] : [])
  }

  var gateway: String { "http://127.0.0.1:\(basePort + 4)" }

  /// Lays the bank out, opens its accounts, and starts its database servers if it has any.
  package func create() async throws {
    if engines {
      try await run([
        "engines", "up", "--directory", directory, "--postgresql-port", "\(basePort + 7)", "--redis-port",
        "\(basePort + 8)", "--mariadb-port", "\(basePort + 9)", "--nats-port", "\(basePort + 10)",
      ])
    }
    try await run([
      "configure", "--directory", directory, engines ? "--engines" : "--embedded", "--base-port", "\(basePort)",
      "--fail-first-ready", "1",
    ])
    for service in services {
      try await run(["init", service, "--config", "\(directory)/config/\(service).json"])
    }
  }

  /// The bank's catalog, as YAML.
  package func catalog() async throws -> String { try await run(["catalog", "--directory", directory]) }

  /// Drives transfers for as long as `body` runs.
  ///
  /// - Returns: What `body` returned, and the load's own summary: one JSON object.
  package func underLoad<T: Sendable>(
    rate: Double, seed: UInt64, record: String, _ body: @Sendable () async throws -> T
  ) async throws -> (T, JSONValue) {
    let result = try await Subprocess.run(
      .path(.init(program)),
      arguments: [
        "load", "--gateway", gateway, "--rate", "\(rate)", "--seed", "\(seed)", "--seconds", "0", "--record", record,
      ],
      input: .none, output: .string(limit: 1 << 20), error: .discarded
    ) { execution in
      do {
        let value = try await body()
        try execution.send(signal: .terminate)
        return value
      } catch {
        try? execution.send(signal: .terminate)
        throw error
      }
    }
    let summary = try CanonicalJSON.decode(JSONValue.self, from: Array(result.standardOutput.utf8))
    return (result.closureResult, summary)
  }

  /// Makes `count` transfers and returns how many were acknowledged.
  package func transfers(_ count: Int, seed: UInt64, record: String) async throws -> Int {
    let text = try await run([
      "load", "--gateway", gateway, "--rate", "\(count)", "--seconds", "1", "--seed", "\(seed)", "--record", record,
    ])
    let summary = try CanonicalJSON.decode(JSONValue.self, from: Array(text.utf8))
    return Int(summary["acknowledged"]?.integer ?? 0)
  }

  @discardableResult
  private func run(_ arguments: [String]) async throws -> String {
    let result = try await Subprocess.run(
      .path(.init(program)), arguments: Arguments(arguments), output: .string(limit: 4 << 20),
      error: .string(limit: 1 << 20))
    guard case .exited(0) = result.terminationStatus else {
      throw DemoError.bank(arguments.joined(separator: " "), "\(result.terminationStatus)", result.standardError)
    }
    return result.standardOutput
  }

  // MARK: Disaster

  /// Kills every process that lives in the bank's directory, without warning, and returns when they are gone; also in a
  /// cancelled task.
  ///
  /// - Parameter sparing: Command-line words of processes to leave alone.
  package func killEverything(sparing: String? = nil, time: any Timekeeper) async throws -> Int {
    let time = UncancelledTime(time)
    var killed: Set<Int32> = []
    for _ in 0..<200 {
      let alive = processes(sparing: sparing)
      if alive.isEmpty { return killed.count }
      for process in alive {
        killed.insert(process)
        kill(process, SIGKILL)
      }
      try await time.sleep(for: .milliseconds(20))
    }
    throw DemoError.stillAlive(processes(sparing: sparing).count)
  }

  private func processes(sparing: String?) -> [Int32] {
    guard let names = try? Files.names(in: "/proc") else { return [] }
    return names.compactMap { name in
      guard let process = Int32(name.lossyText), process != ProcessID.current, process > 1 else { return nil }
      let words = ((try? Files.read("/proc/\(process)/cmdline", limitBytes: 1 << 20)) ?? [])
        .split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
      // A zombie has no command line and no working directory: it is gone already.
      let place = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process)/cwd")
      let isOurs =
        words.contains { $0 == directory || $0.hasPrefix(directory + "/") }
        || (place.map { $0 == directory || $0.hasPrefix(directory + "/") } ?? false)
      // This demo's own command line may name the directory too.
      guard isOurs, !words.contains("demo") else { return nil }
      if let sparing, words.contains(sparing) { return nil }
      return process
    }
  }

  /// Empties every disk: what is there after a loss, once new disks are in.
  package func loseEveryDisk() throws {
    for disk in try Files.names(in: "\(directory)/data") {
      let path = "\(directory)/data/\(disk)"
      for name in try Files.names(in: path) { try Files.removeTree("\(path)/\(name)") }
    }
  }
}

package enum DemoError: Failure {
  case bank(String, String, String)
  case stillAlive(Int)
  case noProgram(String)
  case story(String)

  package var report: Report {
    switch self {
    case .bank(let what, let status, let log):
      Report("DEMO-101", "salvor-bank \(what): \(status)\(log.isEmpty ? "" : ": \(log)")", retry: .never)
    case .stillAlive(let count): Report("DEMO-102", "\(count) processes of the bank would not die", retry: .never)
    case .noProgram(let path):
      Report("DEMO-103", "the bank's program is not at \(path)")
        .remedy("run scripts/demo, which builds it, or name it with --bank")
    case .story(let what): Report("DEMO-104", "the demo did not go as it should: \(what)", retry: .never)
    }
  }
}
