import Core
import DriverKit
import IO
import Recovery
import StateKit

/// What the steps of a restore see of the world, as one process of Salvor sees it.
struct SimulatedSystem: RestoreEnvironment {
  let process: SimulatedProcess
  let time: any Timekeeper

  private var world: World { process.world }
  var runner: any ServiceRunner { SimulatedRunner(process: process, time: time) }

  func driver(of store: StoreName) throws(RecoveryError) -> any DataStoreDriver {
    SimulatedDriver(store: store, process: process)
  }

  func copy(of store: StoreName) async throws(RecoveryError) -> StoreCopy {
    StoreCopy(
      source: EmptySource(),
      capture: CaptureResult(
        version: "1", position: .init(kind: "number", value: "7"), contentDigest: restoredDigest(store), sizeBytes: 100)
    )
  }

  func unit(of service: ServiceName) throws(RecoveryError) -> ServiceUnit? {
    ServiceUnit(
      name: service, mode: .daemon, start: ServiceCommand(["serve"]),
      ready: [ReadyCheck("answers", .tcp(host: "127.0.0.1", port: 1))])
  }

  func readiness(of service: ServiceName) async throws(RecoveryError) -> [ReadyEvidence] {
    do throws(ServiceError) {
      guard let unit = try? unit(of: service) else { return [] }
      return try await runner.waitUntilReady(unit)
    } catch {
      throw .notReady(service, why: error.report.summary)
    }
  }

  func validate(_ service: ServiceName) async -> [CheckOutcome] {
    guard (try? process.boundary()) != nil else {
      return [CheckOutcome(name: "v", verdict: .couldNotCheck, summary: "gone")]
    }
    let fails = world.rules.validatorFails == service
    return [CheckOutcome(name: "v", verdict: fails ? .failed : .passed, summary: fails ? "vetoed" : "holds")]
  }

  func invariants() async -> [CheckOutcome] {
    guard (try? process.boundary()) != nil else {
      return [CheckOutcome(name: "i", verdict: .couldNotCheck, summary: "gone")]
    }
    let mixed = world.stores.values.contains { $0.live?.hasPrefix("restored") != true }
    return [CheckOutcome(name: "i", verdict: mixed ? .failed : .passed, summary: mixed ? "mixed" : "holds")]
  }
}

private func restoredDigest(_ store: StoreName) -> ContentDigest {
  ContentDigest(scheme: "simulated", parts: ["all": .init(digest: "restored \(store)", count: 1)])
}

private struct EmptySource: TreeSource {
  func entries(below root: TreePath) async throws(AnyFailure) -> [TreeEntry] { [] }
  func contents(of path: TreePath, limitBytes: Int) async throws(AnyFailure) -> [UInt8] { [] }
  func materialise(
    _ root: TreePath, at directory: String, first: [String],
    progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws(AnyFailure) {}
}

/// A store that keeps the promises of the port, in memory; a swap takes two acts, and a crash can come between them.
struct SimulatedDriver: DataStoreDriver {
  let store: StoreName
  let process: SimulatedProcess

  private var world: World { process.world }

  private func call(_ what: String, _ body: (inout World.Store) -> Void) async throws(DriverError) {
    do { try await process.effect { world.act(store, what, body) } } catch { throw .unreachable("anything: killed") }
  }

  func traits() async throws(DriverError) -> DriverTraits {
    do { try process.boundary() } catch { throw .unreachable("anything: killed") }
    guard world.serves(store) else { throw .unreachable("\(store)") }
    return DriverTraits(version: "1", hold: .held(how: "by decree"))
  }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    throw .unsupported("captures")
  }

  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] {
    try await call("precheck") { _ in }
    return []
  }

  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    let value = "restored \(store)"
    try await call("clear") { store in if store.beside != value { store.beside = nil } }
    try await call("restore") { $0.beside = value }
    return RestoredState(position: .init(kind: "number", value: "7"), sizeBytes: 100, proofs: [])
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    var found: String?
    try await call("compare") { store in
      found = store.beside
      store.isCompared = store.beside != nil
    }
    return ContentDigest(scheme: "simulated", parts: ["all": .init(digest: found ?? "nothing", count: 1)])
  }

  func swapIn(_ request: RestoreRequest) async throws(DriverError) {
    guard let now = world.stores[store] else { throw .unreachable("\(store)") }
    if now.outgoing != nil { try await swapOut(request) }
    if world.rules.swapsOnce, now.kept != nil, now.incoming == nil { return }
    try await call("swap in, first") { store in
      guard store.incoming == nil, let beside = store.beside ?? store.kept else { return }
      if store.beside == nil { store.kept = nil }
      (store.incoming, store.beside) = (beside, nil)
    }
    try await call("swap in, second") { store in
      guard store.incoming != nil, store.kept == nil else { return }
      (store.kept, store.live) = (store.live, nil)
    }
    try await call("swap in, third") { store in
      guard let incoming = store.incoming else { return }
      (store.live, store.incoming) = (incoming, nil)
    }
  }

  func swapOut(_ request: RestoreRequest) async throws(DriverError) {
    guard let now = world.stores[store] else { throw .unreachable("\(store)") }
    if now.incoming != nil { try await swapIn(request) }
    if world.rules.swapsBackOnce, world.stores[store]?.kept == nil, now.outgoing == nil { return }
    try await call("swap out, first") { store in
      guard store.outgoing == nil, let kept = store.kept ?? store.beside else { return }
      if store.kept == nil { store.beside = nil }
      (store.outgoing, store.kept) = (kept, nil)
    }
    try await call("swap out, second") { store in
      guard store.outgoing != nil, store.beside == nil else { return }
      (store.beside, store.live) = (store.live, nil)
    }
    try await call("swap out, third") { store in
      guard let outgoing = store.outgoing else { return }
      (store.live, store.outgoing) = (outgoing, nil)
    }
  }

  func discardKept(_ request: RestoreRequest) async throws(DriverError) {
    try await call("discard") { ($0.kept, $0.beside) = (nil, nil) }
  }

  func start() async throws(DriverError) { try await call("start") { $0.serves = true } }

  func stop() async throws(DriverError) { try await call("stop") { if $0.hasServer { $0.serves = false } } }

  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    throw .unsupported("queries")
  }
}

struct SimulatedRunner: ServiceRunner {
  let process: SimulatedProcess
  let time: any Timekeeper

  private func call<T>(_ service: ServiceName, _ body: () -> T) async throws(ServiceError) -> T {
    do { return try await process.effect { body() } } catch { throw .startFailed(service, why: "killed") }
  }

  func start(_ service: ServiceUnit) async throws(ServiceError) -> ServiceStart {
    try await call(service.name) {
      if process.world.running.contains(service.name) { return .alreadyRunning(pid: 1) }
      process.world.start(service.name)
      return .started(pid: 1)
    }
  }

  func stop(_ service: ServiceUnit) async throws(ServiceError) {
    try await call(service.name) { process.world.stop(service.name) }
  }

  func status(_ service: ServiceUnit) async throws(ServiceError) -> ServiceStatus {
    try await call(service.name) { process.world.running.contains(service.name) ? .running(pid: 1) : .notRunning }
  }

  func evaluate(_ check: ReadyCheck, of service: ServiceName) async throws(ServiceError) {
    let isUp = try await call(service) { process.world.running.contains(service) }
    if !isUp { throw .notReady(service, check: check.name, why: "it doesn't run") }
  }

  func waitUntilReady(_ service: ServiceUnit) async throws(ServiceError) -> [ReadyEvidence] {
    for check in service.ready { try await evaluate(check, of: service.name) }
    return service.ready.map { ReadyEvidence(check: $0.name, attempt: 1, at: time.now(), waitedNanoseconds: 0) }
  }
}
