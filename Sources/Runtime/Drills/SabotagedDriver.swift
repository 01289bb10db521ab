import Core
import DriverKit

/// A driver that does what it does, and something to the store once its server is up; for drills alone.
struct SabotagedDriver: DataStoreDriver {
  let base: any DataStoreDriver
  let sabotage: @Sendable () async throws(DriverError) -> Void

  func start() async throws(DriverError) {
    try await base.start()
    try await sabotage()
  }

  func traits() async throws(DriverError) -> DriverTraits { try await base.traits() }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    try await base.capture(context)
  }

  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] { try await base.precheck(request) }

  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    try await base.restoreBeside(request)
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    try await base.digestBeside(request)
  }

  func swapIn(_ request: RestoreRequest) async throws(DriverError) { try await base.swapIn(request) }
  func swapOut(_ request: RestoreRequest) async throws(DriverError) { try await base.swapOut(request) }
  func discardKept(_ request: RestoreRequest) async throws(DriverError) { try await base.discardKept(request) }
  func stop() async throws(DriverError) { try await base.stop() }

  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    try await base.query(text, limit: limit)
  }

  func follower() -> (any LogFollower)? { base.follower() }
  func marking() -> (any MarkSession)? { base.marking() }
}
