import Core
import IO
import JournalSQLite
import StateKit
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

@Suite("Killed for real", .timeLimit(.minutes(10)))
struct KillTests {
  private struct Leftovers: Equatable {
    var lines: [String]
    var files: [String: String]
  }

  /// One life of the controller.
  ///
  /// - Returns: Whether it came to its end before it was killed.
  private func live(in directory: TemporaryDirectory, seed: UInt64, killAfter microseconds: UInt32?) throws -> Bool {
    let program = try #require(
      (try? Files.readLink("/proc/self/exe")).map { "\(Files.parent(of: $0))/salvor-torture-flow" })
    let log = try File(directory.file("stderr.log"), O_WRONLY | O_CREAT | O_APPEND)
    let process = try GatedProcess(
      .init(
        path: program, arguments: ["salvor-torture-flow", directory.path, "\(seed)"],
        environment: ["PATH": "/usr/bin:/bin"], output: log, isDetached: false))
    try process.begin()
    if let microseconds {
      usleep(microseconds)
      kill(process.pid, SIGKILL)
    }
    let ending = try process.waitForEnding()
    if ending == .killed(signal: SIGKILL) { return false }
    let said = String(decoding: try Files.read(directory.file("stderr.log")), as: UTF8.self)
    try #require(ending == .exited(0), "\(said)")
    return true
  }

  private func leftovers(_ directory: TemporaryDirectory) throws -> Leftovers {
    let lines = String(decoding: try Files.read(directory.file("effects.log")), as: UTF8.self)
      .split(separator: "\n").map(String.init).sorted()
    var files: [String: String] = [:]
    for name in try Files.names(in: directory.path) where name.bytes.first == UInt8(ascii: "s") && name != "stderr.log"
    {
      files[name.lossyText] = String(decoding: try Files.read(directory.file(name.lossyText)), as: UTF8.self)
    }
    return Leftovers(lines: lines, files: files)
  }

  @Test func `killed at any moment and started again, a run ends the same`() async throws {
    var (kills, seed) = (0, UInt64(0))
    let randomness = SeededRandomness(seed: 99)
    while kills < 30 {
      seed += 1
      let calm = try TemporaryDirectory("calm")
      #expect(try live(in: calm, seed: seed, killAfter: nil))
      let expected = try leftovers(calm)
      #expect(expected.lines.count == 40)
      #expect(expected.files.count == 40)

      let directory = try TemporaryDirectory("torture")
      while try !live(in: directory, seed: seed, killAfter: UInt32(1000 + randomness.below(90_000))) { kills += 1 }
      #expect(try leftovers(directory) == expected)
      let journal = try await SQLiteJournal.open(directory.file("journal.db"), time: SystemTime())
      let record = try await journal.load(RunID(unchecked: "torture-\(seed)"))
      #expect(record.state == .succeeded)
      #expect(record.steps.values.allSatisfy { $0.state == .succeeded })
      try AuditChain.verify(try await journal.auditTrail(after: 0, run: nil, limit: 100_000))
      try await journal.close()
      try #require(seed < 40, "the kills come too late to hit anything")
    }
  }
}

extension Files {
  fileprivate static func readLink(_ path: String) throws -> String {
    var buffer = [CChar](repeating: 0, count: 4096)
    let count = readlink(path, &buffer, buffer.count)
    guard count > 0 else { throw SystemFailure("readlink", path: path) }
    return String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
