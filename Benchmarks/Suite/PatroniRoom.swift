import Core
import FailoverRig
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Three PostgreSQL servers under Patroni, with etcd, HAProxy and clients on hosts of their own: what a
/// ``FailoverRig/FailoverRoom`` is without Salvor. Every call blocks.
final class PatroniRoom: Sendable {
  struct Settings: Sendable {
    var name: String
    /// Seconds.
    var ttl: Int
    var loopWait: Int
    var retryTimeout: Int
    /// A commit waits for a standby, and only one that has it all is promoted.
    var isSynchronous: Bool
    /// How long a server that ended is started again before another is promoted; seconds.
    var startTimeout: Int

    /// What Patroni 3.0 does if nothing is said; acknowledged commits may be lost.
    static let byDefault = Settings(
      name: "defaults", ttl: 30, loopWait: 10, retryTimeout: 10, isSynchronous: false, startTimeout: 300)
    /// The least its documentation allows, losing nothing.
    static let tightest = Settings(
      name: "tightest", ttl: 20, loopWait: 1, retryTimeout: 3, isSynchronous: true, startTimeout: 0)
  }

  let network: RigNetwork
  private let settings: Settings
  private let bin: String

  init(_ settings: Settings, seed: UInt64) throws {
    self.settings = settings
    let versions = stride(from: 18, through: 13, by: -1).map { "/usr/lib/postgresql/\($0)/bin" }
    guard let bin = versions.first(where: { Files.exists($0 + "/postgres") }) else {
      throw BenchmarkError.wrong("PostgreSQL's programs aren't there")
    }
    self.bin = bin
    network = try RigNetwork(FailoverRoom.hosts, seed: seed)
    do { try start() } catch {
      network.close()
      throw error
    }
  }

  func close() { network.close() }

  var throughProxy: String { "host=\(network["proxy"].address) port=5000" }

  private func start() throws {
    let store = network["store"]
    let (client, peer) = ("http://\(store.address):2379", "http://\(store.address):2380")
    try network.start(
      [
        "/usr/bin/env", "etcd", "--name", "store", "--data-dir", store.directory + "/data", "--listen-client-urls",
        client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
        "--initial-cluster", "store=\(peer)", "--logger", "zap",
      ], on: "store", log: "etcd.log")
    for name in FailoverRoom.members {
      _ = try network.mountDisk(on: name, bytes: 600 << 20)
      try Files.replace(
        network[name].directory + "/patroni.yml", with: Array(configuration(name).utf8), mode: 0o644)
      try startPatroni(name)
      // The first makes the cluster; the others copy it.
      if name == "a" { try wait("a cluster") { self.ask("SELECT 1", on: "a") != nil } }
    }
    try startProxy()
    try wait("three members") { self.whole != nil }
  }

  func startPatroni(_ name: String) throws {
    try network.start(
      ["/usr/bin/patroni", network[name].directory + "/patroni.yml"], on: name, log: "patroni.log",
      environment: ["HOME": network[name].directory])
  }

  private func configuration(_ name: String) -> String {
    let host = network[name]
    return """
      scope: room
      name: \(name)
      restapi: {listen: "\(host.address):8008", connect_address: "\(host.address):8008"}
      etcd3: {host: "\(network["store"].address):2379"}
      bootstrap:
        dcs:
          ttl: \(settings.ttl)
          loop_wait: \(settings.loopWait)
          retry_timeout: \(settings.retryTimeout)
          primary_start_timeout: \(settings.startTimeout)
          maximum_lag_on_failover: 1048576
          synchronous_mode: \(settings.isSynchronous)
          postgresql:
            use_pg_rewind: true
            use_slots: true
            parameters: {wal_keep_size: 96MB, max_wal_size: 64MB, min_wal_size: 8MB, wal_log_hints: "on"}
        initdb: [{encoding: UTF8}, {locale: C}, data-checksums, {wal-segsize: "1"}, no-sync]
        pg_hba: ["host all all 10.77.0.0/24 trust", "host replication all 10.77.0.0/24 trust"]
      postgresql:
        listen: "\(host.address):5432"
        connect_address: "\(host.address):5432"
        data_dir: \(host.directory)/disk/data
        bin_dir: \(bin)
        pgpass: \(host.directory)/pgpass
        authentication:
          superuser: {username: postgres, password: not-a-secret-in-a-test}
          replication: {username: replicator, password: not-a-secret-in-a-test}
          rewind: {username: postgres, password: not-a-secret-in-a-test}
        parameters:
          unix_socket_directories: ""
          shared_buffers: 16MB
          dynamic_shared_memory_type: mmap

      """
  }

  private func startProxy() throws {
    let host = network["proxy"]
    let path = host.directory + "/haproxy.cfg"
    try Files.replace(
      path, with: Array(FailoverRoom.proxySettings(network, checkPort: 8008).utf8), mode: 0o644)
    try network.start(["/usr/sbin/haproxy", "-db", "-f", path], on: "proxy", log: "haproxy.log")
  }

  private func ask(_ statement: String, on name: String) -> [[String?]]? {
    try? FailoverRig.ask(statement, at: "host=\(network[name].address) port=5432", from: network[name])
  }

  /// Who serves, while both others follow it; and, if commits wait, one of them is waited for.
  var whole: String? {
    let waits = settings.isSynchronous ? "AND EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')" : ""
    let question =
      "SELECT 1 WHERE NOT pg_is_in_recovery() AND 2 = (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming') \(waits)"
    return FailoverRoom.members.first { self.ask(question, on: $0)?.isEmpty == false }
  }

  func wait(_ what: String, _ body: () throws -> Bool) throws {
    let time = SystemTime()
    let deadline = time.monotonicNanoseconds() + 180_000_000_000
    while try !body() {
      guard time.monotonicNanoseconds() < deadline else { throw BenchmarkError.wrong("no \(what) in three minutes") }
      poll(nil, 0, 100)
    }
  }

  /// The tables of the load, made by whoever serves.
  func makeTables() throws {
    guard let name = whole else { throw BenchmarkError.wrong("nobody serves") }
    _ = try FailoverRig.ask(RigClients.tables, at: "host=\(network[name].address) port=5432", from: network[name])
  }
}
