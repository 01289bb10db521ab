import Core
import IO
import LeaseContract
import LeaseEtcd
import StateKit
import TestSupport
import Testing
import Web

@Suite("Leases in etcd", .serialized) struct EtcdLeaseTests {
  @Test(.timeLimit(.minutes(10)), arguments: LeasePromise.allCases)
  func `etcd keeps its promises as a lease store`(_ promise: LeasePromise) async throws {
    let server = try await BlockingPool.shared.run { () throws in try EtcdServer() }
    let store = EtcdLeaseStore(endpoints: ["http://127.0.0.1:1", server.endpoint], web: try WebClient())
    let time = SystemTime()
    try await promise.keep(store, period: .seconds(3)) { try await time.sleep(for: $0) }
    await BlockingPool.shared.run { server.stop() }
  }
}
