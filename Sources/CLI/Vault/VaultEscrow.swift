import ArgumentParser
import Console
import Core
import Foundation
import IO
import Runtime
import Vault

extension VaultCommand {
  struct Escrow: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "escrow", abstract: "Seal the password to people who may have to open the repository one day.",
      discussion: """
        The password lies beside the repository, sealed to a recipient's public key with X-Wing (ML-KEM-768 and X25519): \
        whoever has the private key can have it back, also from a machine with a quantum computer in it. Nobody else can. \
        With --escrow-key FILE, every command of `salvor vault` opens the repository by such a key.

        EXAMPLES
          salvor vault escrow keygen --private /media/safe/escrow.key > escrow.pub
          salvor vault escrow add escrow.pub --label 'the notary'
          salvor vault escrow list
          salvor vault escrow open --escrow-key /media/safe/escrow.key --to /run/recovered
          salvor vault --escrow-key /media/safe/escrow.key restore latest -t /srv/back
        """,
      subcommands: [Generate.self, AddRecipient.self, ListRecipients.self, RemoveRecipient.self, Open.self])

    struct Generate: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "keygen", abstract: "Make a pair of keys; the public one goes to standard output.",
        discussion: """
          The private key is written for its owner alone, and nothing is written over. It has no password of its own: keep \
          it where the system it is for can't reach it, and in two places.

          EXAMPLE
            salvor vault escrow keygen --private /media/safe/escrow.key > escrow.pub
          """)

      @Option(help: ArgumentHelp("Where the private key goes.", valueName: "file"), completion: .file())
      var `private`: String

      func run() async throws {
        let (path, pool) = (absolute(self.private), BlockingPool.shared)
        let key = try await pool.run { () throws(VaultError) in try EscrowPrivateKey() }
        try await pool.run { try EscrowKeyFile.write(key.fileContent, to: path) }
        standardError("private key written to \(path.harmless); recipient \(key.publicKey.id.short)\n")
        standardOutput(key.publicKey.text + "\n")
      }
    }

    struct AddRecipient: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Seal the password in use to recipients.",
        discussion: """
          A recipient is a file that holds a public key, or the key itself. Everybody who can list the store sees that there \
          is an escrow, its label, and the recipient's digest.

          EXAMPLES
            salvor vault escrow add escrow.pub
            salvor vault escrow add alice.pub bob.pub --label 'board of directors'
          """)

      @Argument(help: "Files with public keys, or the keys.", completion: .file()) var recipients: [String]
      @Option(help: "Who that is, for people.") var label: String = ""
      @OptionGroup var options: RepositoryOptions

      func run() async throws {
        let (recipients, label, pool) = (recipients, label, options.host.pool)
        var keys: [EscrowPublicKey] = []
        for recipient in recipients {
          var text = recipient
          if !recipient.hasPrefix("salvor-escrow-1:") {
            text = try await pool.run { () throws(SystemFailure) in
              String(decoding: try Files.read(recipient, limitBytes: 65_536), as: UTF8.self)
            }
          }
          keys.append(try EscrowPublicKey(text: text))
        }
        let access = try await options.access()
        let wanted = keys
        let ids = try await options.locked(needsLock: true, loadingIndex: false, access: access) { repository in
          var ids: [Digest] = []
          for key in wanted { ids.append(try await repository.addEscrow(access.password, to: key, label: label)) }
          return ids
        }
        let json = zip(ids, keys).map { id, key -> JSONValue in
          ["id": .string(id.hex), "recipient": .string(key.id.hex), "label": .string(label)]
        }
        try options.show(json) { _ in
          zip(ids, keys).map { "sealed to recipient \($1.id.short), as \($0.short)" }
        }
      }
    }

    struct ListRecipients: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List whom the password is sealed to; needs no password.",
        discussion: """
          One whose password was changed or removed since is stale: it opens nothing any more.

          EXAMPLE
            salvor vault escrow list
          """)
      @OptionGroup var options: RepositoryOptions

      func run() async throws {
        let store = try await options.store()
        let listing = try await Repository.escrows(in: store)
        let keys = Set(try await store.list(.key).compactMap(\.name.id))
        for damage in listing.damaged { standardError("warning: \(damage.report.description.harmless)\n") }
        let json = listing.files.map { info -> JSONValue in
          [
            "id": .string(info.id.hex), "recipient": .string(info.recipient.hex), "label": .string(info.label),
            "created": .string(info.created), "key": .string(info.key.hex), "stale": .bool(!keys.contains(info.key)),
          ]
        }
        try options.show(json) { style in
          var table = Table("ID", "Recipient", "Key", "Created", "Label", "")
          for info in listing.files {
            table.add(
              info.id.short, info.recipient.short, info.key.short, info.created.harmless, info.label.harmless,
              keys.contains(info.key) ? "" : style.paint("stale", .warning))
          }
          return table.lines(style) + ["\(listing.files.count.of("recipient"))"]
        }
      }
    }

    struct RemoveRecipient: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "Take an escrowed password away.",
        discussion: """
          Who has opened it, or copied it and has the private key, knows the password: change it too, with \
          `salvor vault key rotate`.

          EXAMPLE
            salvor vault escrow remove 7a31
          """)
      @Argument(help: "The first digits of its id, as `list` shows it.") var id: String
      @OptionGroup var options: RepositoryOptions

      func run() async throws {
        let prefix = id.lowercased()
        let removed = try await options.locked(needsLock: true, loadingIndex: false) { repository in
          let id = try await repository.find(.escrow, prefix)
          try await Repository.removeEscrow(id, from: repository.store)
          return id
        }
        try options.show(["removed": JSONValue.string(removed.hex)]) { _ in ["removed escrow \(removed.short)"] }
      }
    }

    struct Open: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "open", abstract: "Have the password back, with the private key.",
        discussion: """
          EXAMPLES
            salvor vault escrow open --escrow-key /media/safe/escrow.key --to /run/recovered
            salvor vault escrow open --escrow-key /media/safe/escrow.key --show
          """)
      @Option(
        help: ArgumentHelp("Write it to this new file, for its owner alone.", valueName: "file"), completion: .file())
      var to: String?
      @Flag(help: "Write it to standard output.") var show = false
      @OptionGroup var options: RepositoryOptions

      func validate() throws {
        if (to == nil) == !show { throw ValidationError("say where the password goes: --to FILE or --show") }
        if options.escrowKey == nil { throw ValidationError("give the private key with --escrow-key") }
      }

      func run() async throws {
        let access = try await options.access()
        // Said before it is needed: a password that opens nothing is no recovery.
        _ = try await options.open(access: access)
        if let to {
          let path = absolute(to)
          try await options.host.pool.run { try EscrowKeyFile.write(access.password, to: path) }
          standardError("the password is in \(path.harmless)\n")
        } else {
          access.password.withBytes { rawOutput(Array($0) + [10]) }
        }
      }
    }
  }
}

/// Files that hold what opens a repository.
enum EscrowKeyFile {
  /// A new file, mode 0600. Blocks.
  static func write(_ secret: Secret, to path: String) throws(SystemFailure) {
    let file = try File(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
    do throws(SystemFailure) {
      try secret.withBytes { bytes -> Result<Void, SystemFailure> in
        do throws(SystemFailure) { return .success(try file.write(bytes)) } catch { return .failure(error) }
      }.get()
      try file.synchronize()
      try Files.synchronizeDirectory(Files.parent(of: path))
    } catch {
      unlink(path)
      throw error
    }
  }

  /// Refuses a private key that others on this machine may read. Blocks.
  static func read(_ path: String) throws -> EscrowPrivateKey {
    let file = try File(path, O_RDONLY)
    let mode = try file.status().st_mode
    guard mode & 0o077 == 0 else {
      throw VaultError.escrowKey("others may read \(path) (mode \(String(mode & 0o777, radix: 8))); make it 600")
    }
    return try EscrowPrivateKey(fileContent: try Files.read(path, limitBytes: 4096))
  }
}
