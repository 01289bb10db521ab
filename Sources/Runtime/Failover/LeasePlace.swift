import Catalog
import Core
import IO
import LeaseEtcd
import LeasePostgreSQL
import StateKit

/// Where leases are, and who we are there.
package struct LeasePlace: Sendable {
  /// `etcd:http://…` or a plain URL for each endpoint of etcd, or one `postgres://…`.
  package var addresses: [String]
  /// Of etcd; PostgreSQL has it in its address.
  package var user: String?
  package var password: SecretReference?
  /// PEM, instead of the system's authorities.
  package var authorityFile: String?
  /// A certificate and its key, both in PEM in one file.
  package var certificateFile: String?

  package init(_ addresses: [String]) { self.addresses = addresses }

  enum Kind { case etcd([String]), postgreSQL(String) }

  func kind() throws(LeaseError) -> Kind {
    var endpoints: [String] = []
    for address in addresses {
      if address.hasPrefix("postgres://") || address.hasPrefix("postgresql://") {
        guard addresses.count == 1 else { throw .unsuited("a lease store is one: etcd's endpoints, or one database") }
        return .postgreSQL(address)
      }
      let endpoint = address.hasPrefix("etcd:") ? String(address.dropFirst(5)) : address
      guard endpoint.hasPrefix("http://") || endpoint.hasPrefix("https://") else {
        // Not repeated: it may have a password in it.
        throw .unsuited("an address is neither etcd:http://host:port nor postgres://user@host:port/database")
      }
      endpoints.append(endpoint.hasSuffix("/") ? String(endpoint.dropLast()) : endpoint)
    }
    guard !endpoints.isEmpty else { throw .unsuited("no address is given") }
    return .etcd(endpoints)
  }

  func etcdUser(_ host: Machine) throws(LeaseError) -> EtcdUser? {
    guard let user else { return nil }
    guard let password else { throw .unsuited("a user of etcd has a password") }
    let secrets = host.secrets
    return EtcdUser(name: user) { () async throws(AnyFailure) in try await secrets.resolve(password) }
  }

  func postgreSQL(
    _ address: String, for policy: FailoverPolicy, dataDirectory: String?, _ host: Machine
  ) throws(LeaseError) -> PostgreSQLLeaseSettings {
    let place = Self.sameHost(try PostgreSQLLeaseStore.place(address))
    if let member = policy.members.first(where: { Self.sameHost($0.address) == place }) {
      throw .unsuited("\(place) is \(member.name), which is failed over")
    }
    var settings = PostgreSQLLeaseSettings(address: address)
    (settings.authorityFile, settings.certificateFile) = (authorityFile, certificateFile)
    if let password {
      let secrets = host.secrets
      settings.password = { () async throws(AnyFailure) in try await secrets.resolve(password) }
    }
    settings.forbidden = Set(dataDirectory.flatMap(Self.systemIdentifier).map { [$0] } ?? [])
    return settings
  }

  private static func sameHost(_ address: String) -> String {
    for name in ["localhost:", "[::1]:", "::1:"] where address.hasPrefix(name) {
      return "127.0.0.1:" + address.dropFirst(name.count)
    }
    return address
  }

  /// Of a PostgreSQL data directory, and of every copy of it; `nil` if it is none.
  ///
  /// Source: PostgreSQL 15, `pg_control.h`: `ControlFileData` begins with it.
  private static func systemIdentifier(_ directory: String) -> UInt64? {
    guard let bytes = try? Files.read(directory + "/global/pg_control", limitBytes: 65_536), bytes.count >= 8 else {
      return nil
    }
    return bytes.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
  }
}
