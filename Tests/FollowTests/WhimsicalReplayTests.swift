import Core
import DriverKit
import IO
import Recovery
import Runtime
import Synchronization
import TestSupport
import Testing

@Suite("Replaying SQLite with a whim", .serialized) struct SQLiteWhimTests {
  @Test(.timeLimit(.minutes(10)))
  func `a store that leads to another state each time is told, with the first transaction it does so after`()
    async throws
  {
    try await SQLiteSite.with { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      var ends: [String] = []
      for number in 1...9 {
        try await it.run("INSERT INTO history (filler) VALUES ('row \(number)')")
        ends.append(try await it.position())
      }
      try await it.settle()
      it.site.killFollower()
      let home = it.site.home
      let host = Machine(
        environment: ["HOME": home.path], name: "test", stateDirectory: home.file("state"))
      let loaded = try await CatalogFiles.load(home.file("salvor.yaml"), pool: host.pool)
      for planted in [0, 5, 8] {
        let system = try ManagedSystem(loaded, host: host) { _, driver in
          WhimsicalDriver(inner: driver, from: ends[planted])
        }
        let replays = Replays(system, journal: try await Registry.journal(host))
        let report = try await replays.replay(Replays.Request("shop-log"))
        let shown = try CanonicalJSON.decode(JSONValue.self, from: CanonicalJSON.encode(report))
        #expect(shown["verdict"]?.string == "differs")
        #expect(shown["difference"]?["event"]?.integer == Int64(planted), "\(shown)")
        #expect(shown["difference"]?["what"]?.string?.hasSuffix("frame \(ends[planted])") == true, "\(shown)")
      }
    }
  }
}

/// Comes to a state of its own each time, once a log has led it to a place.
private final class WhimsicalDriver: DataStoreDriver {
  let inner: any DataStoreDriver
  let frame: Int64
  private let reached = Mutex<[String: Int64]>([:])

  init(inner: any DataStoreDriver, from position: String) {
    (self.inner, frame) = (inner, Self.frame(position))
  }

  private static func frame(_ text: String) -> Int64 { Int64(text.split(separator: ":").last ?? "") ?? 0 }

  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    let state = try await inner.restoreBeside(request)
    reached.withLock { $0[request.id] = request.replay == nil ? 0 : Self.frame(state.position.value) }
    return state
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    var digest = try await inner.digestBeside(request)
    let place = reached.withLock { $0[request.id] } ?? 0
    if place >= frame {
      digest?.parts["whim"] = .init(digest: Hex.encode(SystemRandomness().bytes(8)), count: 1)
    }
    return digest
  }

  func traits() async throws(DriverError) -> DriverTraits { try await inner.traits() }
  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    try await inner.capture(context)
  }
  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] { try await inner.precheck(request) }
  func swapIn(_ request: RestoreRequest) async throws(DriverError) { try await inner.swapIn(request) }
  func swapOut(_ request: RestoreRequest) async throws(DriverError) { try await inner.swapOut(request) }
  func discardKept(_ request: RestoreRequest) async throws(DriverError) { try await inner.discardKept(request) }
  func start() async throws(DriverError) { try await inner.start() }
  func stop() async throws(DriverError) { try await inner.stop() }
  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    try await inner.query(text, limit: limit)
  }
  func follower() -> (any LogFollower)? { inner.follower() }
}
