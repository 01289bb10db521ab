import ArgumentParser
import Console
import Core
import Runtime

/// Where leases are, for every verb that takes or leaves something there.
struct LeaseOptions: ParsableArguments {
  @Option(
    name: .customLong("lease"), parsing: .upToNextOption,
    help: ArgumentHelp(
      "Where leases are kept: endpoints of etcd, such as http://10.0.0.9:2379, or postgres://user@host/database.",
      valueName: "address"))
  var addresses: [String]
  @Option(help: "The user of an etcd that asks for one.") var leaseUser: String?
  @Option(help: "That user's password: file:…, env:… or command:….") var leasePassword: String?
  @Option(help: "Who signed the lease store's certificate, PEM.", completion: .file()) var leaseCa: String?
  @Option(help: "A certificate and its key for the lease store, PEM, in one file.", completion: .file())
  var leaseCert: String?

  var place: LeasePlace {
    get throws {
      var place = LeasePlace(addresses)
      place.user = leaseUser
      place.password = try leasePassword.map { try reference($0) }
      (place.authorityFile, place.certificateFile) = (leaseCa, leaseCert)
      return place
    }
  }
}

/// How agents know each other, and who asks them.
struct AgentTrustOptions: ParsableArguments {
  @Option(help: "Our certificate chain, PEM.", completion: .file()) var tlsCert: String?
  @Option(help: "Its private key, PEM.", completion: .file()) var tlsKey: String?
  @Option(help: "Who signs agents' certificates, PEM; nobody else is spoken to.", completion: .file())
  var tlsCa: String?

  func validate() throws {
    guard (tlsCert == nil) == (tlsKey == nil) else { throw ValidationError("--tls-cert and --tls-key go together") }
  }

  /// Reads the files.
  func identity(_ host: Machine) async throws -> AgentIdentity {
    let files = AgentCertificates(certificateFile: tlsCert, keyFile: tlsKey, authorityFile: tlsCa)
    return try await host.pool.run {
      try AgentIdentity(files, time: host.time, pool: host.pool, log: host.log)
    }
  }
}

struct LeaseSchemaCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "lease-schema", abstract: "Print what a PostgreSQL database needs to keep leases, for psql.",
    discussion: """
      Run it as the database's owner. The role that agents connect as gets the right to call six functions, and nothing else. \
      Again is nothing.

      EXAMPLES
        salvor failover lease-schema --role salvor | psql -v ON_ERROR_STOP=1 leases
      """)

  @Option(help: "The role that agents connect as; must be there.") var role: String

  func run() { standardOutput(Registry.leaseSchema(for: role)) }
}
