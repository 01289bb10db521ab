import Core
import Foundation
import IO
import TestSupport

/// The judge: the real restic on a local repository.
struct Restic: Sendable {
  struct Outcome: Sendable {
    var status: Int32
    var output: [UInt8]
    var errors: String
    var text: String { String(decoding: output, as: UTF8.self) }
  }

  struct Refused: Error, CustomStringConvertible {
    let description: String
  }

  let repository: String
  var password = "correct horse"

  /// Runs a command to its end, whatever that is.
  func attempt(_ arguments: [String], input: String? = nil, in directory: String = "/") async -> Outcome {
    await BlockingPool.shared.run { [self] in
      do {
        let process = try PipedProcess(
          ["/usr/bin/restic", "--no-cache", "-r", repository] + arguments, in: directory,
          environment: ["RESTIC_PASSWORD": password, "HOME": "/tmp"])
        if let input { process.write(Array(input.utf8)) }
        process.end()
        let status = process.wait()
        return Outcome(status: status, output: process.output, errors: process.errors)
      } catch { return Outcome(status: 127, output: [], errors: "\(error)") }
    }
  }

  /// Runs a command that must succeed.
  @discardableResult
  func run(_ arguments: String..., in directory: String = "/") async throws -> Outcome {
    let outcome = await attempt(arguments, in: directory)
    guard outcome.status == 0 else {
      throw Refused(description: "restic \(arguments.joined(separator: " ")): \(outcome.errors)\(outcome.text)")
    }
    return outcome
  }
}

/// A `restic backup --stdin` that waits for its input, and so holds its lock.
final class HeldBackup: Sendable {
  private let process: PipedProcess

  private init(_ restic: Restic) throws {
    process = try PipedProcess(
      ["/usr/bin/restic", "--no-cache", "-r", restic.repository, "backup", "--stdin"],
      environment: ["RESTIC_PASSWORD": restic.password, "HOME": "/tmp"])
  }

  static func start(_ restic: Restic, until isReady: () async throws -> Bool) async throws -> HeldBackup {
    let held = try HeldBackup(restic)
    while try await !isReady() {
      guard held.process.isRunning else { throw Restic.Refused(description: "restic backup --stdin ended") }
      try await Task.sleep(for: .milliseconds(20))
    }
    return held
  }

  /// Ends it without a chance to tidy up.
  func kill() { process.kill() }
}
