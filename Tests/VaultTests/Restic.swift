import Core
import Foundation
import IO

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
      let process = Process()
      process.executableURL = URL(fileURLWithPath: "/usr/bin/restic")
      process.arguments = ["--no-cache", "-r", repository] + arguments
      process.currentDirectoryURL = URL(fileURLWithPath: directory)
      process.environment = ["RESTIC_PASSWORD": password, "HOME": "/tmp", "PATH": "/usr/bin:/bin", "TZ": "UTC"]
      let (output, errors, stdin) = (Pipe(), Pipe(), Pipe())
      process.standardOutput = output
      process.standardError = errors
      process.standardInput = stdin
      do { try process.run() } catch { return Outcome(status: 127, output: [], errors: "\(error)") }
      if let input { stdin.fileHandleForWriting.write(Data(input.utf8)) }
      try? stdin.fileHandleForWriting.close()
      // Errors are few; output may be more than a pipe holds.
      let bytes = [UInt8](output.fileHandleForReading.readDataToEndOfFile())
      let text = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
      process.waitUntilExit()
      return Outcome(status: process.terminationStatus, output: bytes, errors: text)
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
final class HeldBackup: @unchecked Sendable {
  private let process = Process()
  private let input = Pipe()

  static func start(_ restic: Restic, until isReady: () async throws -> Bool) async throws -> HeldBackup {
    let held = HeldBackup()
    held.process.executableURL = URL(fileURLWithPath: "/usr/bin/restic")
    held.process.arguments = ["--no-cache", "-r", restic.repository, "backup", "--stdin"]
    held.process.environment = ["RESTIC_PASSWORD": restic.password, "HOME": "/tmp", "PATH": "/usr/bin:/bin"]
    held.process.standardInput = held.input
    held.process.standardOutput = FileHandle.nullDevice
    held.process.standardError = FileHandle.nullDevice
    try held.process.run()
    while try await !isReady() {
      guard held.process.isRunning else { throw Restic.Refused(description: "restic backup --stdin ended") }
      try await Task.sleep(for: .milliseconds(20))
    }
    return held
  }

  /// Ends it without a chance to tidy up.
  func kill() {
    Foundation.kill(process.processIdentifier, SIGKILL)
    process.waitUntilExit()
  }

  deinit { if process.isRunning { Foundation.kill(process.processIdentifier, SIGKILL) } }
}
