import Catalog
import Core
import DriverBucket
import DriverEtcd
import DriverExec
import DriverFiles
import DriverKit
import DriverMariaDB
import DriverNATS
import DriverPostgreSQL
import DriverRabbitMQ
import DriverRedis
import DriverSQLite
import IO
import JournalMemory
import JournalSQLite
import LeaseEtcd
import LeasePostgreSQL
import MountFUSE
import ObjectStoreCache
import ObjectStoreFaulty
import ObjectStoreLimits
import ObjectStoreLocal
import ObjectStoreMemory
package import ObjectStoreMirror
import ObjectStoreOverlay
package import ObjectStoreParity
import ObjectStoreREST
import ObjectStoreRetry
import ObjectStoreS3
import ServiceExec
import StateKit
import TrafficEnvoy
import TrafficExec
import TrafficHAProxy
import TrafficNGINX
import TrafficPgBouncer
import Vault
import WatchdogDevice
import Web

/// Every adapter there is: the one list a newcomer adds a line to.
package enum Registry {
  package static let drivers: [any DriverFactory.Type] = [
    SQLiteDriverFactory.self, FilesDriverFactory.self, PostgreSQLDriverFactory.self, RedisDriverFactory.self,
    MariaDBDriverFactory.self, NATSDriverFactory.self, RabbitMQDriverFactory.self, EtcdDriverFactory.self,
    BucketDriverFactory.self,
    ExecDriverFactory.self,
  ]

  /// Those whose copies can be opened by themselves, to be asked and changed.
  static let openable: Set<DriverName> = ["postgresql", "sqlite"]

  static func objectStores(_ host: Machine) -> [any ObjectStoreFactory] {
    [
      LocalObjectStoreFactory(pool: host.pool), RESTObjectStoreFactory(environment: host.environment),
      S3ObjectStoreFactory(environment: host.environment, time: host.time, pool: host.pool),
      RcloneObjectStoreFactory(environment: host.environment, time: host.time, pool: host.pool, log: host.log),
    ]
  }

  /// What each driver's options may be, for the catalog.
  package static var schemas: [DriverName: [OptionSchema]] {
    Dictionary(uniqueKeysWithValues: drivers.map { ($0.name, $0.options) })
  }

  package static func driver(_ name: DriverName) -> (any DriverFactory.Type)? { drivers.first { $0.name == name } }

  /// - Parameter location: Such as `local:/srv/backup` or `rest:https://host:8000/path/`; a bare path is local.
  package static func store(at location: String, host: Machine) throws -> any ObjectStore {
    let (store, isRemote) = try bareStore(at: location, host: host)
    let settings = try RemoteSettings(host)
    return isRemote ? settings.around(store, host) : settings.limiting(store, host)
  }

  /// The store itself, with nothing around it that would try again or remember.
  package static func bareStore(
    at location: String, host: Machine
  ) throws -> (store: any ObjectStore, isRemote: Bool) {
    let factories = objectStores(host)
    let isPath = location.hasPrefix("/") || location.hasPrefix(".")
    let colon = isPath ? nil : location.firstIndex(of: ":")
    let scheme = colon.map { String(location[..<$0]) } ?? "local"
    guard let factory = factories.first(where: { type(of: $0).scheme == scheme }) else {
      throw RegistryError.unknownScheme(scheme, known: factories.map { type(of: $0).scheme })
    }
    let store = try factory.open(colon.map { String(location[location.index(after: $0)...]) } ?? location)
    return (store, type(of: factory).isRemote)
  }

  /// A store whose every object is written to mirrors too.
  package static func mirrored(_ store: any ObjectStore, _ mirrors: [any ObjectStore]) -> any ObjectStore {
    mirrors.isEmpty ? store : MirroredObjectStore(store, mirrors: mirrors)
  }

  /// Where a repository's parity is.
  package static func parityPlace(of location: String, host: Machine) throws -> any ObjectStore {
    try store(
      at: location + (location.hasSuffix("/") || location.hasSuffix(":") ? "" : "/") + ParityStore.directory, host: host
    )
  }

  /// A store with parity for every object that is written.
  package static func protected(_ store: any ObjectStore, by parity: ParityStore?) -> any ObjectStore {
    parity.map { ParityObjectStore(store, $0) } ?? store
  }

  /// The parity of a store that has some, mirrored or not.
  package static func parity(in store: any ObjectStore) -> ParityObjectStore? {
    ((store as? MirroredObjectStore)?.base ?? store) as? ParityObjectStore
  }

  /// What this session knows of a store's mirrors: each, and why it is behind.
  package static func standings(_ store: any ObjectStore) -> [(mirror: any ObjectStore, problem: MirrorProblem?)] {
    (store as? MirroredObjectStore)?.standings ?? []
  }

  /// Shows a file system at a directory, until it is unmounted or `stopped` ends.
  package static func mount(
    _ files: any ReadOnlyFileSystem, at directory: String, allowsOthers: Bool, checksPermissions: Bool, host: Machine,
    until stopped: AsyncStream<Never>, mounted: @escaping @Sendable () async -> Void
  ) async throws {
    var options = FUSEMount.Options()
    (options.allowsOthers, options.checksPermissions) = (allowsOthers, checksPermissions)
    try await FUSEMount(files, options, pool: host.pool).serve(
      at: directory, until: stopped, mounted: mounted)
  }

  /// The journal of a state directory.
  package static func journal(_ host: Machine) async throws -> any RunJournal {
    try await host.pool.run { () throws(SystemFailure) in
      try Files.createDirectory(host.stateDirectory, mode: 0o700)
    }
    return try await SQLiteJournal.open(host.path("journal.sqlite"), time: host.time)
  }

  /// What a database needs to keep leases, as statements for psql.
  package static func leaseSchema(for role: String) -> String { LeaseSchema.script(for: role) }

  /// - Parameters:
  ///   - policy: Its members must not keep the leases themselves.
  ///   - dataDirectory: Of the member that asks; the database it has is refused wherever it is met.
  ///   - promised: The highest epoch that who asks has on its disk; a store that knows a lower one has forgotten.
  package static func leases(
    at place: LeasePlace, for policy: FailoverPolicy, dataDirectory: String? = nil, promised: Fence = .none,
    host: Machine
  ) throws -> any LeaseStore {
    switch try place.kind() {
    case .etcd(let endpoints):
      let trust = WebTrust(authorityFile: place.authorityFile, clientCertificateFile: place.certificateFile)
      return EtcdLeaseStore(
        endpoints: endpoints, web: try WebClient(trust, time: host.time), user: try place.etcdUser(host))
    case .postgreSQL(let address):
      var settings = try place.postgreSQL(address, for: policy, dataDirectory: dataDirectory, host)
      settings.floors = [SeatName(unchecked: policy.name.text): promised]
      return try PostgreSQLLeaseStore(settings, pool: host.pool, time: host.time, randomness: host.randomness)
    }
  }

  /// - Parameter path: Such as `/dev/watchdog`.
  package static func watchdog(at path: String) -> any Watchdog { DeviceWatchdog(path) }

  /// The engine of a policy's member, or a witness's eyes for all of them.
  package static func engine(
    of name: MemberName, in policy: FailoverPolicy, _ options: MemberOptions, host: Machine
  ) throws -> any ReplicatedEngine {
    let peers = try policy.members.map { member in
      let parts = member.address.split(separator: ":")
      guard parts.count == 2, let port = UInt16(parts[1]) else {
        throw FailoverFailure.badPolicy(policy.name.text, "'\(member.address)' is no host:port")
      }
      return MemberAddress(name: member.name, host: String(parts[0]), port: port)
    }
    switch policy.engine {
    case .postgresql:
      var settings = PostgreSQLMemberSettings(
        name: name, peers: peers.map { .init(name: $0.name, host: $0.host, port: $0.port) })
      (settings.dataDirectory, settings.passwordFile) = (options.dataDirectory, options.passwordFile)
      (settings.user, settings.password) = (options.user ?? settings.user, options.password)
      (settings.acknowledgements, settings.isBounded) = (policy.acknowledgements, policy.isBounded)
      (settings.freshness, settings.keptCopies) = (policy.signals.freshness, options.keptCopies)
      return PostgreSQLMember(settings, in: host.driverEnvironment)
    case .redis:
      var settings = RedisMemberSettings(name: name, peers: peers)
      (settings.dataDirectory, settings.configFile) = (options.dataDirectory, options.configFile)
      (settings.user, settings.password) = (options.user, options.password)
      (settings.acknowledgements, settings.isBounded) = (policy.acknowledgements, policy.isBounded)
      (settings.freshness, settings.keptCopies) = (policy.signals.freshness, options.keptCopies)
      return try RedisMember(settings, in: host.driverEnvironment)
    case .mariadb:
      // How far standbys are isn't known to a primary that doesn't wait for them.
      if policy.isBounded {
        throw FailoverFailure.badPolicy(policy.name.text, "MariaDB bounds no loss: consent must be another")
      }
      var settings = MariaDBMemberSettings(name: name, peers: peers)
      (settings.dataDirectory, settings.configFile) = (options.dataDirectory, options.configFile)
      (settings.user, settings.password) = (options.user ?? settings.user, options.password)
      (settings.socket, settings.copyCommand) = (options.socket, options.copyCommand)
      (settings.isBounded, settings.freshness) = (policy.isBounded, policy.signals.freshness)
      settings.keptCopies = options.keptCopies
      return MariaDBMember(settings, in: host.driverEnvironment)
    }
  }

  /// The router of a route, as the catalog declares it.
  package static func router(_ declared: TrafficRoute, host: Machine) throws(AnyFailure) -> any TrafficRouter {
    let route = RouteName(unchecked: declared.name.text)
    let names = declared.backends.sorted { $0.key < $1.key }.map { (name: $0.key, server: $0.value) }
    do {
      switch declared.router {
      case .haproxy(let found):
        var settings = HAProxySettings(route: route, socket: found.socket, backend: found.backend, servers: names)
        (settings.stateFile, settings.patience) = (found.stateFile, declared.patience)
        return try HAProxyRouter(settings, time: host.time, pool: host.pool)
      case .nginx(let found):
        var settings = NGINXSettings(
          route: route, upstream: found.upstream, servers: names.map { ($0.name, $0.server) }, file: found.file,
          echo: found.echo, pidFile: found.pidFile)
        (settings.test, settings.patience) = (found.test, declared.patience)
        return try NGINXRouter(settings, web: WebClient(time: host.time), time: host.time, pool: host.pool)
      case .envoy(let found):
        var settings = EnvoySettings(
          route: route, cluster: found.cluster, servers: try names.map { try address($0.name, $0.server, route) },
          file: found.file, admin: found.admin)
        settings.patience = declared.patience
        return EnvoyRouter(settings, web: try WebClient(time: host.time), time: host.time, pool: host.pool)
      case .pgbouncer(let found):
        var settings = PgBouncerSettings(
          route: route, host: found.host, port: found.port, user: found.user, password: found.password,
          database: found.database, servers: try names.map { try address($0.name, $0.server, route) },
          file: found.file, parameters: found.parameters)
        (settings.patience, settings.grace) = (declared.patience, min(declared.patience, .seconds(2)))
        let secrets = host.secrets
        return try PgBouncerRouter(settings, time: host.time, pool: host.pool) { (reference) async throws(AnyFailure) in
          try await secrets.resolve(reference)
        }
      case .exec(let command):
        var settings = ExecRouterSettings(
          route: route, words: command.words, servers: names.map { ($0.name, $0.server) })
        settings.patience = declared.patience
        return try ExecRouter(settings, time: host.time)
      }
    } catch { throw AnyFailure(error) }
  }

  private static func address(
    _ name: BackendName, _ text: String, _ route: RouteName
  ) throws(TrafficError) -> (name: BackendName, host: String, port: UInt16) {
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
      throw .settings(route, "'\(text)' is not host:port")
    }
    return (name, String(text[..<colon]), port)
  }

  /// - Parameter query: Answers `sql` ready checks.
  static func runner(
    _ host: Machine, query: @escaping @Sendable (StoreName, String, Duration) async throws -> [[String?]]
  ) -> any ServiceRunner {
    let secrets = host.secrets
    return ExecServiceRunner(
      stateDirectory: host.path("services"), time: host.time, pool: host.pool,
      resolve: { (reference) async throws(AnyFailure) in try await secrets.resolve(reference) }, runQuery: query)
  }
}

package enum RegistryError: Failure {
  case unknownScheme(String, known: [String])
  case unknownDriver(DriverName)
  case badVariable(String)

  package var report: Report {
    switch self {
    case .unknownScheme(let scheme, let known):
      Report("USAGE-101", "no storage is called '\(scheme)'").remedy("use one of: \(known.joined(separator: ", "))")
    case .unknownDriver(let name):
      Report("USAGE-102", "no driver is called '\(name)'").remedy("`salvor validate` lists what the catalog may name")
    case .badVariable(let name):
      Report("USAGE-103", "\(name) is not a whole number above 0").remedy("correct the variable, or unset it")
    }
  }
}
