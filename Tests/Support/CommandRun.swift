import Core
import Foundation
import IO

/// A program run to its end, with what it said on each channel.
package struct CommandRun: Sendable {
  package var words: [String]
  /// The exit status; 128 and more for a signal.
  package var status: Int32
  package var output: String
  package var errors: String

  /// - Parameter environment: All of it; nothing is inherited.
  package init(
    _ words: [String], in directory: String = "/", environment: [String: String] = [:]
  ) async throws {
    self.words = words
    (status, output, errors) = try await BlockingPool.shared.run {
      let scratch = try TemporaryDirectory("run")
      let (output, errors) = (scratch.file("output"), scratch.file("errors"))
      for file in [output, errors] { try Files.replace(file, with: []) }
      let process = Process()
      process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
      process.arguments = words
      process.currentDirectoryURL = URL(fileURLWithPath: directory)
      process.environment = ["PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nonexistent", "TZ": "UTC"]
        .merging(environment) { $1 }
      process.standardInput = FileHandle.nullDevice
      process.standardOutput = FileHandle(forWritingAtPath: output)
      process.standardError = FileHandle(forWritingAtPath: errors)
      try process.run()
      process.waitUntilExit()
      let status = process.terminationReason == .exit ? process.terminationStatus : 128 + process.terminationStatus
      func text(_ file: String) throws -> String { String(decoding: try Files.read(file), as: UTF8.self) }
      return (status, try text(output), try text(errors))
    }
  }

  /// - Throws: Unless it ended with status 0.
  @discardableResult
  package func succeeded() throws -> CommandRun {
    guard status == 0 else { throw Failed(description: "\(words) ended with \(status): \(errors)\(output)") }
    return self
  }

  package struct Failed: Error, CustomStringConvertible {
    package var description: String
    package init(description: String) { self.description = description }
  }

  /// A product of this package, next to the test bundle.
  package static func product(_ name: String) throws -> String {
    for place in CommandLine.arguments + ["/proc/self/exe"] {
      guard let resolved = realpath(place, nil) else { continue }
      defer { free(resolved) }
      let candidate = "\(Files.parent(of: String(cString: resolved)))/\(name)"
      if Files.exists(candidate) { return candidate }
    }
    throw SystemFailure("find", path: name, number: ENOENT)
  }
}
