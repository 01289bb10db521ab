import Core
import IO
import RepositoryServer
import TestSupport
import Testing

/// Repositories that each have a user of their own, in one catalog.
@Suite("Credentials of a repository")
struct CatalogCredentialTests {
  private let directory: TemporaryDirectory

  init() throws { directory = try TemporaryDirectory("credentials") }

  private func write(_ name: String, _ text: String) throws {
    try Files.replace(directory.file(name), with: Array(text.utf8), mode: 0o600)
  }

  private func catalog(_ port: Int, alice: String, more: String = "") throws {
    func repository(_ user: String, _ file: String) -> String {
      """
      apiVersion: salvor.dev/v1
      kind: Repository
      metadata: {name: \(user)}
      spec:
        location: "rest:http://127.0.0.1:\(port)/\(user)/"
        password: file:\(directory.file("password"))
        credentials:
          RESTIC_REST_USERNAME: file:\(directory.file("\(user).name"))
          RESTIC_REST_PASSWORD: file:\(directory.file(file))
      \(more)
      ---

      """
    }
    func store(_ name: String) -> String {
      """
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: of-\(name)}
      spec:
        stores:
          - {name: \(name)-files, files: {path: \(directory.file(name))}, repository: \(name)}
      ---
      apiVersion: salvor.dev/v1
      kind: ConsistencyGroup
      metadata: {name: \(name)}
      spec: {stores: [\(name)-files]}
      ---

      """
    }
    try write(
      "salvor.yaml", repository("alice", alice) + repository("bob", "bob.secret") + store("alice") + store("bob"))
  }

  private func salvor(_ words: String...) async throws -> CommandRun {
    try await CommandRun(
      [try CommandRun.product("salvor")] + words, in: directory.path,
      environment: [
        "HOME": directory.path, "SALVOR_STATE": directory.file("state"), "SALVOR_NO_CACHE": "1",
        // Of somebody else: where a repository has its own, these don't count.
        "RESTIC_REST_USERNAME": "mallory", "RESTIC_REST_PASSWORD": "wrong",
      ])
  }

  @Test(.timeLimit(.minutes(10))) func `each repository is reached by its own user`() async throws {
    let users = directory.file("users")
    for (number, user) in ["alice", "bob"].enumerated() {
      try await CommandRun(["htpasswd", number == 0 ? "-cbB" : "-bB", "-C", "5", users, user, "swordfish-\(user)"])
        .succeeded()
      try write("\(user).name", user + "\n")
      try write("\(user).secret", "swordfish-\(user)\n")
      try Files.createDirectory(directory.file(user))
      try Files.replace(directory.file("\(user)/file"), with: Array("of \(user)".utf8), mode: 0o644)
    }
    try write("password", "correct horse\n")
    var settings = ServerSettings(directory: directory.file("served"))
    (settings.usersFile, settings.hasPrivateRepositories) = (users, true)
    try await withServer(settings) { [self] port in
      try catalog(port, alice: "alice.secret")
      for user in ["alice", "bob"] {
        try await CommandRun(
          [try CommandRun.product("salvor"), "vault", "init"],
          environment: [
            "RESTIC_REPOSITORY": "rest:http://127.0.0.1:\(port)/\(user)/", "RESTIC_PASSWORD": "correct horse",
            "RESTIC_REST_USERNAME": user, "RESTIC_REST_PASSWORD": "swordfish-\(user)",
          ]
        ).succeeded()
      }
      try await salvor("validate").succeeded()
      for user in ["alice", "bob"] { try await salvor("backup", user).succeeded() }
      for user in ["alice", "bob"] {
        #expect(try Files.names(in: directory.file("served/\(user)/snapshots")).count >= 1, "\(user)")
      }
      // Another's password does not do.
      try catalog(port, alice: "bob.secret")
      let refused = try await salvor("backup", "alice")
      #expect(refused.status != 0 && (refused.errors + refused.output).contains("STORE-107"))
      #expect(!(refused.errors + refused.output).contains("swordfish"))
    }
  }

  @Test func `other variables can't be set, and a secret in the catalog isn't repeated`() async throws {
    try catalog(1, alice: "alice.secret", more: "    LD_PRELOAD: file:/tmp/x")
    let unknown = try await salvor("validate")
    #expect(unknown.status != 0 && (unknown.errors + unknown.output).contains("LD_PRELOAD"))
    try catalog(1, alice: "alice.secret", more: "    AWS_SECRET_ACCESS_KEY: swordfish")
    let secret = try await salvor("validate")
    #expect(secret.status != 0 && !(secret.errors + secret.output).contains("swordfish"))
  }
}
