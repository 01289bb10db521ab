import Core
import Foundation
import IO
import Testing

/// One run of the built `salvor`, in a process of its own, that can be killed at any moment.
final class SalvorProcess {
  struct Unexpected: Error, CustomStringConvertible {
    var description: String
  }

  private let process: GatedProcess
  private let started = SystemTime().monotonicNanoseconds()
  private let outputPath: String
  let errorPath: String
  let words: String

  /// - Parameter number: Names the files that take its output.
  init(_ arguments: [String], in root: String, number: Int) throws {
    let log = "\(root)/log"
    try Files.createDirectory(log)
    (outputPath, errorPath) = ("\(log)/\(number).out", "\(log)/\(number).err")
    words = "salvor " + arguments.joined(separator: " ")
    let program = try Self.program()
    process = try GatedProcess(
      .init(
        path: "/bin/sh",
        arguments: ["sh", "-c", "exec \"$0\" \"$@\" >\"$OUT\" 2>\"$ERR\" </dev/null", program] + arguments,
        environment: [
          "PATH": "/usr/bin:/bin", "HOME": root, "SALVOR_STATE": "\(root)/state", "OUT": outputPath, "ERR": errorPath,
          "LC_ALL": "C.UTF-8",
        ], output: try File("\(log)/\(number).sh", O_WRONLY | O_CREAT | O_TRUNC), isDetached: false))
    try process.begin()
  }

  /// The executable beside the one that runs the tests.
  static func program() throws -> String {
    let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    // Under `swift test` that is the toolchain's helper or the test bundle itself.
    for start in [
      Files.parent(of: own), Files.parent(of: CommandLine.arguments.first { $0.contains(".xctest") } ?? own),
    ] {
      if Files.exists("\(start)/salvor") { return "\(start)/salvor" }
    }
    throw Unexpected(description: "no built salvor beside \(own)")
  }

  var elapsed: Duration { .nanoseconds(SystemTime().monotonicNanoseconds() - started) }
  var output: String { (try? Files.read(outputPath)).map { String(decoding: $0, as: UTF8.self) } ?? "" }
  var errors: String { (try? Files.read(errorPath)).map { String(decoding: $0, as: UTF8.self) } ?? "" }

  /// Lines that tell of steps that ended or were undone.
  var boundaries: Int {
    errors.split(separator: "\n").count { $0.hasPrefix("  done  ") || $0.hasPrefix("  undone ") }
  }

  @discardableResult
  func wait(expecting codes: Set<Int32> = [0]) throws -> Int32 {
    guard case .exited(let code) = try process.waitForEnding(), codes.contains(code) else {
      throw Unexpected(description: "\(words) ended badly: \(output)\(errors)")
    }
    return code
  }

  enum Moment: CustomStringConvertible {
    case after(Duration)
    /// As soon as so many steps are told to be done.
    case step(Int)

    var description: String {
      switch self {
      case .after(let delay): "after \(delay.brief)"
      case .step(let count): "after step \(count)"
      }
    }
  }

  /// - Returns: Whether it was killed; `false` if it had ended before.
  func kill(_ moment: Moment) throws -> Bool {
    let limit: Duration = if case .after(let delay) = moment { delay } else { .seconds(60) }
    while elapsed < limit {
      if try process.ending() != nil { return false }
      if case .step(let count) = moment, boundaries >= count { break }
      usleep(500)
    }
    Foundation.kill(process.pid, SIGKILL)
    return try process.waitForEnding() == .killed(signal: SIGKILL)
  }
}
