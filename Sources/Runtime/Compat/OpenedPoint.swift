import Catalog
import Core
import DriverKit
import IO
import Recovery
import Validation

/// A point's copies, brought back beside and opened, to be asked and changed, and thrown away at the end whatever happened.
///
/// Nothing of the system is touched: each copy stands in a workspace of its own, behind a server that only we can reach.
struct OpenedPoint: Sendable {
  let point: RecoveryPoint
  /// The moment it is of.
  let time: Timestamp
  let copies: [StoreName: any DisposableCopy]
  /// What each store came back as.
  let captures: [StoreName: CaptureResult]
  /// Of what came back, as the mark's record has it; of stores that were asked for it.
  let digests: [StoreName: ContentDigest]

  enum Opening: Sendable {
    /// A store that can't be opened by itself is a failure.
    case all
    /// Such a store comes back and is compared with its mark, no more.
    case whatCanBe
  }

  /// - Parameter wanted: A point's id, its beginning, or its name; `nil` is the newest good one.
  static func with<T: Sendable>(
    _ stores: [StoreName], at wanted: String?, in system: ManagedSystem, opens: Opening = .all,
    progress: @escaping @Sendable (String) -> Void, _ body: @escaping @Sendable (OpenedPoint) async throws -> T
  ) async throws -> T {
    let chosen = try await PointSelection(system: system).chooseGood(stores, named: wanted, progress: progress)
    let environment = LiveRestore(
      system: system, point: chosen.point, forwards: chosen.forwards, invariantNames: [])
    let id = "look-" + Hex.encode(system.host.randomness.bytes(6))
    var requests: [StoreName: RestoreRequest] = [:]
    for store in stores { requests[store] = try await request(store, id, environment, progress) }
    let wantedCopies = requests
    return try await system.holdingRepositories(of: stores, until: ReadingEnd()) {
      var opened: [StoreName: any DisposableCopy] = [:]
      var digests: [StoreName: ContentDigest] = [:]
      let result: Result<T, any Error>
      do {
        for store in stores {
          progress("\(store): bringing it back beside")
          guard let request = wantedCopies[store] else { continue }
          try await restore(store, request, system)
          if opens == .whatCanBe, request.capture.contentDigest != nil {
            digests[store] = try await system.driver(of: store).digestBeside(request)
          }
          opened[store] = try await system.driver(of: store).openBeside(request)
          if opened[store] == nil, opens == .all { throw CompatError.notOpenable(store) }
        }
        let place = OpenedPoint(
          point: chosen.point, time: chosen.point.time, copies: opened, captures: wantedCopies.mapValues(\.capture),
          digests: digests)
        result = .success(try await body(place))
      } catch { result = .failure(error) }
      for copy in opened.values { await copy.close() }
      for (store, request) in wantedCopies { await discard(store, request, system) }
      return try result.get()
    }
  }

  private static func request(
    _ store: StoreName, _ id: String, _ environment: LiveRestore, _ progress: @escaping @Sendable (String) -> Void
  ) async throws -> RestoreRequest {
    let copy = try await environment.copy(of: store)
    var request = RestoreRequest(id: id, source: copy.source, capture: copy.capture)
    if let replay = copy.replay {
      request.replay = replay
      // What was recorded at the mark says nothing about a later moment.
      request.capture.contentDigest = nil
    }
    return request
  }

  private static func restore(
    _ store: StoreName, _ request: RestoreRequest, _ system: ManagedSystem
  ) async throws {
    let driver = try system.driver(of: store)
    do {
      let findings = try await driver.precheck(request)
      guard findings.isEmpty else { throw CompatError.precheck(store, findings.map(\.report)) }
      _ = try await driver.restoreBeside(request)
    } catch {
      if error is CompatError { throw error }
      if let failure = error as? DriverError, case .cancelled = failure { throw CancellationError() }
      throw RecoveryError.store(store, AnyFailure(error).report)
    }
  }

  private static func discard(_ store: StoreName, _ request: RestoreRequest, _ system: ManagedSystem) async {
    do { try await system.driver(of: store).discardKept(request) } catch {
      system.host.log(
        "\(store): what was brought back to be looked at could not be removed: \(AnyFailure(error).report)")
    }
  }

  /// Checks, as if the copies were the system.
  func checks(_ time: any Timekeeper) -> CheckRunner {
    let copies = copies
    return CheckRunner(
      CheckPorts(
        time: time,
        driver: { store in
          guard let copy = copies[store] else { throw CompatError.notOpenable(store) }
          return CopyDriver(copy: copy)
        }, execute: { _ in throw CompatError.notHere }, get: { _, _ in throw CompatError.notHere }))
  }
}

/// A copy that answers queries in the place of its store.
private struct CopyDriver: DataStoreDriver {
  let copy: any DisposableCopy

  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    try await copy.query(text, limit: limit)
  }

  private var never: DriverError { .unsupported("a copy that is only looked at does nothing else") }

  func traits() async throws(DriverError) -> DriverTraits { throw never }
  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession { throw never }
  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] { throw never }
  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState { throw never }
  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? { throw never }
  func swapIn(_ request: RestoreRequest) async throws(DriverError) { throw never }
  func swapOut(_ request: RestoreRequest) async throws(DriverError) { throw never }
  func discardKept(_ request: RestoreRequest) async throws(DriverError) { throw never }
  func start() async throws(DriverError) { throw never }
  func stop() async throws(DriverError) { throw never }
}
