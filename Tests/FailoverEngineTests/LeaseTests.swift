import Core
import IO
import LeaseContract
import LeaseEtcd
import StateKit
import TestSupport
import Testing
import Web

#if canImport(Glibc)
  import Glibc
#endif

@Suite("Leases in etcd", .serialized) struct EtcdLeaseTests {
  @Test(.timeLimit(.minutes(10)), arguments: LeasePromise.allCases)
  func `etcd keeps its promises as a lease store`(_ promise: LeasePromise) async throws {
    let server = try await BlockingPool.shared.run { () throws in try EtcdServer() }
    let store = EtcdLeaseStore(endpoints: ["http://127.0.0.1:1", server.endpoint], web: try WebClient())
    let time = SystemTime()
    try await promise.keep(store, period: .seconds(3)) { try await time.sleep(for: $0) }
    await BlockingPool.shared.run { server.stop() }
  }

  /// Its gateway takes no client's certificate that has a common name where there are users.
  @Test(.timeLimit(.minutes(10)))
  func `an etcd with a certificate and users`() async throws {
    let certificates = try await Certificates()
    let directory = try TemporaryDirectory("etcd-tls")
    let (port, peer) = (try freePort(), try freePort())
    let endpoint = "https://127.0.0.1:\(port)"
    let words = [
      "etcd", "--data-dir", directory.file("data"), "--listen-client-urls", endpoint, "--advertise-client-urls",
      endpoint, "--listen-peer-urls", "http://127.0.0.1:\(peer)", "--cert-file", certificates.server, "--key-file",
      certificates.serverKey,
    ]
    let server = try await BlockingPool.shared.run { () throws in try ServerProcess(port: port, words) }
    func admin(_ words: String...) async throws {
      try await CommandRun(
        [
          "etcdctl", "--endpoints", endpoint, "--cacert", certificates.authority,
        ] + words, environment: ["ETCDCTL_API": "3"]
      ).succeeded()
    }
    try await admin("user", "add", "root:root")
    try await admin("user", "add", "agent:first")
    try await admin("role", "add", "leases")
    try await admin("role", "grant-permission", "--prefix=true", "leases", "readwrite", "/salvor/failover/")
    try await admin("user", "grant-role", "root", "root")
    try await admin("user", "grant-role", "agent", "leases")
    try await admin("auth", "enable")

    let shown = WebTrust(authorityFile: certificates.authority)
    let seat: SeatName = "bank"
    func store(_ trust: WebTrust, _ password: String?, _ prefix: String = "/salvor/failover") throws -> EtcdLeaseStore {
      let user = password.map { text in
        EtcdUser(name: "agent") { () async throws(AnyFailure) in Secret(text) }
      }
      return EtcdLeaseStore(endpoints: [endpoint], prefix: prefix, web: try WebClient(trust), user: user)
    }
    let known = try store(shown, "first")
    let tenure = try await known.take(seat, as: "a", for: .seconds(60))
    try await known.write([1, 2], under: tenure)
    try await known.renew(tenure)
    #expect(try await known.view(seat).record == [1, 2])

    for stranger in [
      try store(WebTrust(), "first"), try store(shown, "second"),
      try store(shown, nil), try store(shown, "first", "/elsewhere"),
    ] {
      await #expect { try await stranger.view(seat) } throws: { error in
        guard case LeaseError.unavailable(let text)? = error as? LeaseError else { return false }
        return !text.contains("first") && !text.contains("second")
      }
    }
    // Its tokens are gone with it.
    await BlockingPool.shared.run { _ = server.end(SIGKILL) }
    let again = try await BlockingPool.shared.run { () throws in try ServerProcess(port: port, words) }
    try await known.release(tenure)
    #expect(try await known.view(seat).tenure == nil)
    await BlockingPool.shared.run { _ = again.end() }
  }
}
