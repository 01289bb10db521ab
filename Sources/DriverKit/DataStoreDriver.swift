import Core
import IO

/// One kind of data store as the engine sees it; a driver holds no policy and no history.
///
/// A driver value stands for one configured store: it was made by its ``DriverFactory`` from the catalog's options and
/// is asked from several tasks. Opening and closing connections is its own business; nothing stays
/// open between calls but a ``CaptureSession``.
package protocol DataStoreDriver: Sendable {
  /// What this store can do, asked of the store itself, once per run.
  ///
  /// - Throws: ``DriverError/unreachable(_:)`` or ``DriverError/unsupported(_:)``, with nothing changed.
  func traits() async throws(DriverError) -> DriverTraits

  /// Begins a capture. Nothing is copied and nobody waits yet.
  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession

  /// What must hold before a restore may touch anything: space, versions, binaries, rights, a stopped server.
  ///
  /// Reads only. An empty list means "go ahead".
  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding]

  /// Brings a capture back beside the live state, consistent at its mark, and lets the engine itself prove it readable.
  ///
  /// Safe to replay: an earlier try's leftovers in `request.workspace` are found and used, or cleared. The live
  /// state is not touched.
  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState

  /// A digest of the logical content beside, comparable with ``CaptureResult/contentDigest``.
  ///
  /// - Returns: `nil` if this store has none; then the report says "not compared", never "equal".
  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest?

  /// Puts what was restored beside in the place of the live state; the live state, if there is any, is kept in the workspace.
  ///
  /// The store's users and its server are stopped. Safe to replay; after a crash at any system call, a second
  /// call finishes the swap.
  func swapIn(_ request: RestoreRequest) async throws(DriverError)

  /// Undoes ``swapIn(_:)``: the kept state is live again, and what was restored is beside again. Safe to replay; does
  /// nothing if the swap never happened.
  ///
  /// - Throws: If ``RestoreRequest/isSwapRecorded`` and the kept state is missing, with nothing changed.
  func swapOut(_ request: RestoreRequest) async throws(DriverError)

  /// Gives up the state kept by ``swapIn(_:)``, and whatever else lies in the workspace. There is no way back after it.
  func discardKept(_ request: RestoreRequest) async throws(DriverError)

  /// Starts the store's server and returns when it accepts connections; nothing to do for stores without one.
  func start() async throws(DriverError)

  /// Stops the store's server and returns when it is gone; fine if it isn't running.
  func stop() async throws(DriverError)

  /// Runs one read-only query against the live store, for checks and invariants: SQL, or what the engine has instead.
  ///
  /// - Returns: Rows of text; a driver without queries throws ``DriverError/unsupported(_:)``.
  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult

  /// Follows the store's log; `nil` for a store without one, or one nobody has taught us to read.
  func follower() -> (any LogFollower)?

  /// Holds and marks a store whose log is followed, without a copy of it: with a copy from before and the log, the mark can
  /// be come back to. What was acknowledged before the mark is in the log soon after it, also of a store that is silent then.
  ///
  /// - Returns: `nil` for a store whose log nobody follows.
  func marking() -> (any MarkSession)?

  /// The live store, to be compared with a copy; `nil` for stores that nobody has taught us to compare.
  func liveView() async throws(DriverError) -> (any StoreView)?

  /// Opens what ``restoreBeside(_:)`` left beside, to be asked, changed and thrown away. After it only
  /// ``discardKept(_:)`` may come: what was opened is never put in place.
  ///
  /// - Returns: `nil` for stores whose copies can't be opened by themselves.
  func openBeside(_ request: RestoreRequest) async throws(DriverError) -> (any DisposableCopy)?

  /// Makes reviewed changes in the live store; `nil` for a store nobody has taught us to correct.
  func corrector() -> (any StoreCorrector)?

  /// As ``query(_:limit:)``, all of them at one moment, of what ``restoreBeside(_:)`` brought back under the same request.
  func queryBeside(_ request: RestoreRequest, _ texts: [String], limit: QueryLimit) async throws(DriverError)
    -> [QueryResult]

  /// Makes this store anew, row by row, for a copy that is to hold less than it; `nil` for one nobody can make anew.
  func rewriter() -> (any StoreRewriter)?

  /// Takes single databases and tables; `nil` for a store whose engine has no words for that.
  func dumper() -> (any StoreDumper)?
}

extension DataStoreDriver {
  package func corrector() -> (any StoreCorrector)? { nil }
  package func queryBeside(
    _ request: RestoreRequest, _ texts: [String], limit: QueryLimit
  ) async throws(DriverError) -> [QueryResult] {
    throw .unsupported("a copy of this store can't be asked before it is put in place")
  }

  package func rewriter() -> (any StoreRewriter)? { nil }
  package func dumper() -> (any StoreDumper)? { nil }
  package func follower() -> (any LogFollower)? { nil }
  package func marking() -> (any MarkSession)? { nil }
  package func liveView() async throws(DriverError) -> (any StoreView)? { nil }
  package func openBeside(_ request: RestoreRequest) async throws(DriverError) -> (any DisposableCopy)? { nil }
}

/// Makes drivers of one kind from what the catalog says; one per adapter, listed in the registry.
package protocol DriverFactory: Sendable {
  static var name: DriverName { get }
  /// One sentence for the reference.
  static var summary: String { get }
  /// The options a manifest may give; anything else is refused before a factory is called.
  static var options: [OptionSchema] { get }
  /// - Throws: ``DriverError/badOption(store:option:why:)``. Opens nothing, resolves no secret.
  static func make(_ configuration: StoreConfiguration, in environment: DriverEnvironment) throws(DriverError)
    -> any DataStoreDriver
}

/// One store's entry in the catalog, checked against the factory's ``DriverFactory/options``.
package struct StoreConfiguration: Sendable, Equatable {
  package var name: StoreName
  package var options: [String: JSONValue]

  package init(name: StoreName, options: [String: JSONValue]) { (self.name, self.options) = (name, options) }

  package func string(_ option: String) -> String? { options[option]?.string }

  package func integer(_ option: String) -> Int64? { options[option]?.integer }

  package func boolean(_ option: String) -> Bool? { options[option]?.bool }

  package func strings(_ option: String) -> [String] { options[option]?.array?.compactMap(\.string) ?? [] }

  package func duration(_ option: String) -> Duration? { string(option).flatMap { Duration(text: $0) } }

  package func secret(_ option: String) -> SecretReference? { string(option).flatMap { SecretReference($0) } }

  package func required(_ option: String) throws(DriverError) -> String {
    guard let value = string(option), !value.isEmpty else {
      throw .badOption(store: name, option: option, why: "is required")
    }
    return value
  }
}

/// What the wiring lends to every driver.
package struct DriverEnvironment: Sendable {
  package var time: any Timekeeper
  package var randomness: any Randomness
  package var pool: BlockingPool
  /// Reads a secret at the moment of use.
  package var resolve: @Sendable (SecretReference) async throws(AnyFailure) -> Secret

  package init(
    time: any Timekeeper, randomness: any Randomness, pool: BlockingPool,
    resolve: @escaping @Sendable (SecretReference) async throws(AnyFailure) -> Secret
  ) {
    (self.time, self.randomness, self.pool, self.resolve) = (time, randomness, pool, resolve)
  }
}

/// What a store can do, as found by asking it.
package struct DriverTraits: Sendable, Equatable, Codable {
  /// The engine's own version, such as `15.20`; empty for files.
  package var version: String
  package var hold: HoldSupport
  /// Bytes a full copy would read, as far as the store knows.
  package var sizeBytes: Int64?
  /// What the operator should know: a setting that limits what can be promised.
  package var notes: [String]

  package init(version: String, hold: HoldSupport, sizeBytes: Int64? = nil, notes: [String] = []) {
    (self.version, self.hold, self.sizeBytes, self.notes) = (version, hold, sizeBytes, notes)
  }
}

/// Whether a store can be part of a consistent cut.
package enum HoldSupport: Sendable, Equatable, Codable {
  /// Writes can be made to wait; `how` names the means in a few words.
  case held(how: String)
  /// Nobody waits, but the mark is of one moment of the whole store, which lies between the call of `mark` and its return: all
  /// that was acknowledged before the call is in the copy, nothing that began after it came back.
  case moment(how: String)
  /// Outside the cut; `why` says so in so many words, with the way to change it where there is one.
  case outside(why: String)
}

/// The outcome of a query, as text, as the engine prints it; `nil` is SQL's NULL.
package struct QueryResult: Sendable, Equatable {
  package var columns: [String]
  package var rows: [[String?]]
  /// There was more than the limit allowed.
  package var isTruncated: Bool

  package init(columns: [String], rows: [[String?]], isTruncated: Bool = false) {
    (self.columns, self.rows, self.isTruncated) = (columns, rows, isTruncated)
  }
}

package struct QueryLimit: Sendable, Equatable {
  package var rows: Int
  package var timeout: Duration

  package init(rows: Int = 10_000_000, timeout: Duration = .seconds(60)) { (self.rows, self.timeout) = (rows, timeout) }
}

/// Something a pre-check found wrong.
package struct Finding: Sendable, Equatable, Codable {
  package var report: Report

  package init(_ report: Report) { self.report = report }
}
