import ArgumentParser
import Console
import Core
import Vault

extension VaultCommand {
  struct Key: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "key", abstract: "Manage the passwords of a repository.",
      discussion: """
        Every key opens the whole repository with its own password.

        EXAMPLES
          salvor vault key list
          salvor vault key add --new-password-file /run/secrets/second
          salvor vault key passwd
          salvor vault key remove 7a31
          salvor vault key rotate --new-password-file /run/secrets/new
        """,
      subcommands: [ListKeys.self, Add.self, Remove.self, Change.self, Rotate.self])

    struct ListKeys: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List keys; an asterisk marks the one in use.",
        discussion: "EXAMPLES\n  salvor vault key list\n  salvor vault key list --json")
      @OptionGroup var options: RepositoryOptions

      func run() async throws {
        let keys = try await options.locked(loadingIndex: false) { try await $0.keys() }
        let json = keys.map { key -> JSONValue in
          [
            "current": .bool(key.isCurrent), "id": .string(String(key.id.hex.prefix(8))),
            "userName": .string(key.username), "hostName": .string(key.hostname), "created": .string(key.created),
          ]
        }
        try options.show(json) { _ in
          var table = Table("ID", "User", "Host", "Created")
          for key in keys {
            table.add(
              "\(key.isCurrent ? "*" : " ")\(key.id.hex.prefix(8))", key.username.harmless, key.hostname.harmless,
              key.created.harmless)
          }
          return table.lines(.plain)
        }
      }
    }

    struct Add: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Add a password; those there are stay valid.",
        discussion: "EXAMPLES\n  salvor vault key add\n  salvor vault key add --new-password-file /run/secrets/second")
      @OptionGroup var new: NewPassword
      @OptionGroup var options: RepositoryOptions

      func run() async throws {
        let password = try await new.read(options)
        let id = try await options.locked(needsLock: true, loadingIndex: false) { try await $0.addKey(password) }
        try options.show(["id": JSONValue.string(id.hex)]) { _ in ["saved new key as \(id.hex.prefix(8))"] }
      }
    }

    struct Remove: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "Take a password's access away.",
        discussion: """
          The key in use can't be removed (exit status 6), so the last one can't either. Someone who had the key may \
          have copied what it opens: data stored before is as exposed as it was.

          EXAMPLE
            salvor vault key remove 7a31
          """)
      @Argument(help: "The first digits of its id.") var id: String
      @OptionGroup var options: RepositoryOptions

      func run() async throws {
        let prefix = id
        let removed = try await options.locked(exclusive: true, needsLock: true, loadingIndex: false) { repository in
          let matches = try await repository.store.list(.key).compactMap(\.name.id)
            .filter { !prefix.isEmpty && $0.hex.hasPrefix(prefix.lowercased()) }
          guard let id = matches.first, matches.count == 1 else { throw VaultError.noSuchKey(prefix) }
          try await repository.removeKey(id)
          return id
        }
        try options.show(["removed": JSONValue.string(removed.hex)]) { _ in ["removed key \(removed.hex.prefix(8))"] }
      }
    }

    struct Change: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "passwd", abstract: "Replace the password in use.",
        discussion:
          "EXAMPLES\n  salvor vault key passwd\n  salvor vault key passwd --new-password-file /run/secrets/new")
      @OptionGroup var new: NewPassword
      @OptionGroup var options: RepositoryOptions

      func run() async throws {
        let password = try await new.read(options)
        let id = try await options.locked(exclusive: true, needsLock: true, loadingIndex: false) {
          try await $0.changePassword(to: password)
        }
        try options.show(["id": JSONValue.string(id.hex)]) { _ in ["saved new key as \(id.hex.prefix(8))"] }
      }
    }
  }
}

/// Where a new password comes from.
struct NewPassword: ParsableArguments {
  @Option(
    help: ArgumentHelp("File that holds the new password; asked for if there is none.", valueName: "file"),
    completion: .file())
  var newPasswordFile: String?
  @Option(help: ArgumentHelp("Command that prints the new password.", valueName: "command"))
  var newPasswordCommand: String?
  @Option(
    help: ArgumentHelp(
      "Where the new password is, as a catalog says it: file:…, env:… or command:….", valueName: "reference"))
  var newPasswordFrom: String?

  func validate() throws {
    if [newPasswordFile, newPasswordCommand, newPasswordFrom].compactMap(\.self).count > 1 {
      throw ValidationError("give one of --new-password-file, --new-password-command and --new-password-from")
    }
  }

  func read(_ options: RepositoryOptions) async throws -> Secret {
    if let newPasswordFile { return try await PasswordSource.file(newPasswordFile, options.host) }
    if let newPasswordCommand { return try await PasswordSource.command(newPasswordCommand, options.host) }
    if let newPasswordFrom { return try await PasswordSource.reference(newPasswordFrom, options.host) }
    return try await PasswordSource.prompt("new password", confirming: true, options.host)
  }
}
