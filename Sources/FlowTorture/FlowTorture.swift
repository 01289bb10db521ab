import Core
import IO
import JournalSQLite
import StateKit
import Workflow

#if canImport(Glibc)
  import Glibc
#endif

/// Carries one run of forty steps out on a journal in a directory, and exits with 0 when it has succeeded.
///
/// Whoever runs it kills it at any moment and starts it again; what it leaves in the directory tells whether anything was
/// lost or done twice.
@main
struct FlowTorture {
  static func main() async {
    guard CommandLine.arguments.count == 3, let seed = UInt64(CommandLine.arguments[2]) else {
      complain("usage: salvor-torture-flow DIRECTORY SEED")
      exit(2)
    }
    do {
      let directory = CommandLine.arguments[1]
      let journal = try await SQLiteJournal.open("\(directory)/journal.db", time: SystemTime())
      var options = RunEngine.Options(holder: Holder(ProcessIdentity.current.description))
      options.parallelism = 3
      let engine = RunEngine(
        journal: journal, handlers: [AppendLine(directory: directory).handler], time: SystemTime(),
        randomness: SystemRandomness(), options: options)
      let record = try await engine.start(spec(seed: seed))
      exit(record.state == .succeeded ? 0 : 1)
    } catch {
      complain("\(AnyFailure(error).report)")
      exit(1)
    }
  }

  private static func complain(_ line: String) {
    let bytes = Array("\(line)\n".utf8)
    write(2, bytes, bytes.count)
  }

  private static func spec(seed: UInt64) -> RunSpec {
    let randomness = SeededRandomness(seed: seed)
    let ids = (0..<40).map { StepID(unchecked: "s\($0)") }
    let steps = ids.indices.map { index in
      let after = ids[max(0, index - 5)..<index].filter { _ in randomness.chance(0.4) }
      return StepSpec(
        id: ids[index], kind: AppendLine.kind, title: "line \(index)",
        input: ["after": .array(after.map { .string($0.text) })], dependsOn: Set(after))
    }
    return RunSpec(
      id: RunID(unchecked: "torture-\(seed)"), kind: "torture", title: "torture", catalogDigest: Digest.of("none"),
      steps: steps, createdAt: Timestamp(seconds: 0))
  }
}

/// Writes a file, and appends a line to a log that all steps share: an act that shows if it is done twice.
struct AppendLine: Step {
  static let kind: StepKind = "torture.append.v1"

  struct Input: Codable { var after: [StepID] }
  struct Output: Codable { var digest: String }

  let directory: String
  private var log: String { "\(directory)/effects.log" }

  private func digest(_ input: Input, _ context: StepContext) throws -> String {
    let before = try input.after.map { try context.output(of: $0, as: Output.self).digest }
    return Digest.of(([context.step.text] + before).joined(separator: "+")).short
  }

  private func line(_ digest: String, _ context: StepContext) -> String { "\(context.step) \(digest)\n" }

  private func isLogged(_ line: String) throws -> Bool {
    guard Files.exists(log) else { return false }
    return String(decoding: try Files.read(log), as: UTF8.self).split(separator: "\n").contains(line.dropLast())
  }

  func probe(_ input: Input, in context: StepContext) async throws -> Output? {
    let digest = try digest(input, context)
    return try await BlockingPool.shared.run {
      guard Files.exists("\(directory)/\(context.step)"), try isLogged(line(digest, context)) else { return nil }
      return Output(digest: digest)
    }
  }

  func run(_ input: Input, in context: StepContext) async throws -> Output {
    let digest = try digest(input, context)
    try await BlockingPool.shared.run {
      try Files.replace("\(directory)/\(context.step)", with: Array(digest.utf8))
      if try isLogged(line(digest, context)) { return }
      let file = try File(log, O_WRONLY | O_CREAT | O_APPEND)
      // One write(2) to a file opened for appending: all of it or nothing, as far as a kill can tell.
      try Array(line(digest, context).utf8).withRawBytes { (raw) throws(SystemFailure) in try file.write(raw) }
      try file.synchronize()
    }
    return Output(digest: digest)
  }

  func verify(_ output: Output, of input: Input, in context: StepContext) async throws {
    let found = try await BlockingPool.shared.run { () throws(SystemFailure) in
      try Files.read("\(directory)/\(context.step)")
    }
    guard found == Array(output.digest.utf8) else {
      throw StepError.verificationFailed(context.step, "its file says something else")
    }
  }
}
