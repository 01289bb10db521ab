import Core
import DriverKit
import IO

/// What the contract needs from one engine: a real store of the test's own, with records in it.
///
/// How to fill it: `start()` starts a real server (or makes a real file) in a temporary directory, with
/// a table, keyspace or directory for records, and writes a handful (numbers below 1000). The contract calls
/// everything else; several writes run at a time, next to a capture. Nothing here may block a thread of Swift's
/// own: C clients go through ``IO/BlockingPool``. A record is a number with a payload, which must be stored as text
/// that can be found in the captured files, unless ``damagePoint(in:)`` is filled as well.
///
/// Then list the promises in a test file: one `@Test(.timeLimit(.minutes(1)))` per function of ``DriverContract``, such as
/// `@Test func heldMeansHeld() async throws { try await DriverContract<MyFixture>().heldMeansHeld() }`.
package protocol DriverFixture: Sendable {
  /// Starts a store that nobody else knows, with a few records in it.
  static func start() async throws -> Self

  /// A driver for this store.
  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver

  /// Files and directories that make up the live state, whether or not they exist now.
  var livePaths: [String] { get }

  /// Writes one record and returns once the store has acknowledged it.
  ///
  /// While the store is held it waits, 20 s at least, and doesn't fail. Called from several tasks.
  func write(_ number: Int64, payload: String) async throws

  /// The numbers of all records in the live state, read the ordinary way.
  func records() async throws -> Set<Int64>

  /// Loses the live state as a lost disk would: nothing at ``livePaths`` any more. The store is stopped.
  func destroyLive() async throws

  /// Ends the store: connections, processes, files. Called once, whatever happened.
  func shutDown() async

  /// The live state as it stands, piece by piece, for comparison; the store is stopped. Empty if there is none.
  func liveContent() async throws -> [String: String]

  /// Runs `body` while everything that was kept beside the live state is somewhere else.
  func withoutKept(_ body: () async throws -> Void) async throws

  /// Names of what restores have left beside the live state.
  func leftovers() async throws -> [String]

  /// Whether the driver's traits must be ``DriverKit/HoldSupport/held(how:)``.
  var isHeld: Bool { get }

  /// Where one flipped bit must be found by a restore.
  func damagePoint(in tree: MemoryTree) -> (path: TreePath, offset: Int)?
}

extension DriverFixture {
  package var isHeld: Bool { true }

  /// Of files: every one byte by byte, with its rights, owner and time.
  package func liveContent() async throws -> [String: String] {
    let paths = livePaths
    return try await BlockingPool.shared.run { try fingerprint(of: paths) }
  }

  package func withoutKept(_ body: () async throws -> Void) async throws {
    var moved: [(from: String, to: String)] = []
    for parent in Set(livePaths.flatMap { [$0, Files.parent(of: $0)] }).sorted() where Files.isDirectory(parent) {
      for name in try Files.names(in: parent).map(\.lossyText) where name.hasPrefix(".salvor-") {
        let pair = ("\(parent)/\(name)", "\(parent)/away\(name)")
        try Files.rename(pair.0, to: pair.1)
        moved.append(pair)
      }
    }
    try promise(!moved.isEmpty, "something was kept beside the live state")
    try await body()
    for pair in moved.reversed() { try Files.rename(pair.to, to: pair.from) }
  }

  package func leftovers() async throws -> [String] {
    let parents = Set(livePaths.map { Files.parent(of: $0) })
    var left: [String] = []
    for parent in parents.sorted() where Files.exists(parent) {
      left += try await BlockingPool.shared.run { try Files.names(in: parent) }.map(\.lossyText)
        .filter { $0.hasPrefix(".salvor-") }.map { "\(parent)/\($0)" }
    }
    return left
  }

  /// The first byte of some record's payload where it stands as plain text, or the middle of the largest file.
  package func damagePoint(in tree: MemoryTree) -> (path: TreePath, offset: Int)? {
    tree.firstOccurrence(of: Array(Payload.prefix.utf8)) ?? tree.middleOfLargestFile
  }
}

/// Which configuration of the driver a promise is about.
package enum DriverVariant: Sendable, Equatable {
  /// The catalog's entry for the running store, with whatever starts and stops its server.
  case usual
  /// The same engine, but its live state would be below this directory, where nothing is yet.
  case liveState(below: String)
  /// The usual one without a way to stop its server; for stores with a server only.
  case withoutStop
}

/// The text stored with each record.
package enum Payload {
  package static let prefix = "salvor-record-"
  package static func of(_ number: Int64) -> String { "\(prefix)\(number)-of-the-contract" }
}

extension DriverEnvironment {
  /// Real time, real chance, the process's pool; secrets from files only.
  package static var live: DriverEnvironment {
    DriverEnvironment(time: SystemTime(), randomness: SystemRandomness(), pool: .shared) {
      reference throws(AnyFailure) in
      do {
        guard case .file(let path) = reference else {
          throw ContractBroken("tests keep secrets in files: \(reference)")
        }
        let bytes = try Files.read(path, limitBytes: 65_536)
        return Secret(Array(bytes.prefix { $0 != 10 }))
      } catch {
        throw AnyFailure(error)
      }
    }
  }
}

/// A promise of the port that a driver did not keep.
package struct ContractBroken: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// - Throws: ``ContractBroken`` unless `condition` holds; `promise` says what was promised, and what was seen.
package func promise(_ condition: Bool, _ promise: @autoclosure () -> String) throws {
  if !condition { throw ContractBroken(promise()) }
}
