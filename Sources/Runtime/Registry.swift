import Catalog
import Core
import DriverEtcd
import DriverExec
import DriverFiles
import DriverKit
import DriverMariaDB
import DriverNATS
import DriverPostgreSQL
import DriverRedis
import DriverSQLite
import IO
import JournalMemory
import JournalSQLite
import LeaseEtcd
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
import Vault
import Web

/// Every adapter there is: the one list a newcomer adds a line to.
package enum Registry {
  package static let drivers: [any DriverFactory.Type] = [
    SQLiteDriverFactory.self, FilesDriverFactory.self, PostgreSQLDriverFactory.self, RedisDriverFactory.self,
    MariaDBDriverFactory.self, NATSDriverFactory.self, EtcdDriverFactory.self, ExecDriverFactory.self,
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
    return isRemote ? try RemoteSettings(host).around(store, host) : store
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

  /// - Parameter endpoints: Those of etcd, such as `http://10.0.0.1:2379`.
  package static func leases(at endpoints: [String], host: Machine) throws -> any LeaseStore {
    EtcdLeaseStore(endpoints: endpoints, web: try WebClient(time: host.time))
  }

  /// The engine of a policy's member, or a witness's eyes for all of them: PostgreSQL.
  ///
  /// - Parameters:
  ///   - dataDirectory: The member's own; `nil` for a witness.
  ///   - passwordFile: In the form of `.pgpass`, readable for the server's user.
  package static func engine(
    of name: MemberName, in policy: FailoverPolicy, dataDirectory: String?, user: String, password: SecretReference?,
    passwordFile: String?, host: Machine
  ) throws -> any ReplicatedEngine {
    let peers = try policy.members.map { member in
      let parts = member.address.split(separator: ":")
      guard parts.count == 2, let port = UInt16(parts[1]) else {
        throw FailoverFailure.badPolicy(policy.name.text, "'\(member.address)' is no host:port")
      }
      return PostgreSQLMemberSettings.Peer(name: member.name, host: String(parts[0]), port: port)
    }
    var settings = PostgreSQLMemberSettings(name: name, peers: peers)
    (settings.dataDirectory, settings.user, settings.passwordFile) = (dataDirectory, user, passwordFile)
    (settings.password, settings.acknowledgements) = (password, policy.acknowledgements)
    (settings.isBounded, settings.freshness) = (policy.isBounded, policy.signals.freshness)
    return PostgreSQLMember(settings, in: host.driverEnvironment)
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
