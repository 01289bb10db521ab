import Core
import Foundation
import IO
import TestSupport

/// The stock restic, which judges what the vault writes.
struct Restic {
  let repository: String
  let password = "correct horse"

  struct Outcome {
    var status: Int32
    var output: [UInt8]
    var errors: String
    var text: String { String(decoding: output, as: UTF8.self) }
  }

  struct Failed: Error, CustomStringConvertible { var description: String }

  /// - Throws: Unless restic ends with one of `statuses`.
  @discardableResult
  func callAsFunction(
    _ arguments: String..., in directory: String? = nil, statuses: Set<Int32> = [0]
  ) async throws -> Outcome {
    try await run("/usr/bin/restic", ["-r", repository, "--no-cache"] + arguments, in: directory, statuses: statuses)
  }

  func run(
    _ program: String, _ arguments: [String], in directory: String? = nil, statuses: Set<Int32> = [0]
  ) async throws -> Outcome {
    let password = password
    let outcome = try await BlockingPool.shared.run {
      let process = try PipedProcess(
        [program] + arguments, in: directory ?? FileManager.default.currentDirectoryPath,
        environment: ["RESTIC_PASSWORD": password])
      process.end()
      let status = process.wait()
      return Outcome(status: status, output: process.output, errors: process.errors)
    }
    guard statuses.contains(outcome.status) else {
      throw Failed(
        description: "\(program) \(arguments) ended with \(outcome.status): \(outcome.errors)\(outcome.text)")
    }
    return outcome
  }

  /// A repository of restic's own making.
  static func initialised(in directory: TemporaryDirectory) async throws -> Restic {
    let restic = Restic(repository: directory.file("repository"))
    try await restic("init")
    return restic
  }

  func polynomial() async throws -> UInt64 {
    struct Config: Decodable { var chunker_polynomial: String }
    let config = try CanonicalJSON.decode(Config.self, from: try await self("cat", "config").output)
    return UInt64(config.chunker_polynomial, radix: 16) ?? 0
  }

  /// The root tree of the newest snapshot.
  func newestRoot() async throws -> Digest {
    struct Snapshot: Decodable { var time: String; var tree: String }
    struct Listed: Decodable { var id: String; var time: String }
    let listed = try CanonicalJSON.decode([Listed].self, from: try await self("snapshots", "--json").output)
    let newest = listed.max { $0.time < $1.time }?.id ?? ""
    let snapshot = try CanonicalJSON.decode(Snapshot.self, from: try await self("cat", "snapshot", newest).output)
    guard let id = Digest(hex: snapshot.tree) else { throw Failed(description: "no tree in \(snapshot)") }
    return id
  }

  func blob(_ id: Digest) async throws -> [UInt8] { try await self("cat", "blob", id.hex).output }
}
