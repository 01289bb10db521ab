import Catalog
import Core
import IO
import Recovery
import Vault

/// The catalog that a repository keeps with every point: all that is needed when only the repository and its password
/// are left.
package struct KeptCatalog: Sendable {
  /// The point whose catalog this is: the newest.
  package var point: RecoveryPoint
  /// By their path below the catalog's folder.
  package var files: [TreePath: [UInt8]]
  /// What had to be changed for this machine, and what is still to be looked at; sentences.
  package var remarks: [String] = []

  /// Reads the newest point's catalog, and names in it the place and password that it was read with.
  ///
  /// - Parameters:
  ///   - location: As in a catalog, such as `local:/srv/backup`.
  ///   - password: Where the password is read from.
  /// - Throws: ``VaultError``, ``RecoveryError/noPoint(why:)`` or a secret's failure, wrapped. Nothing is written.
  package static func newest(
    in location: DeclaredRepository.Location, password: SecretReference, host: Machine
  ) async throws(AnyFailure) -> KeptCatalog {
    do {
      let vault = try await Vault.Repository.open(
        store: try Registry.store(at: location.description, host: host),
        password: try await host.secrets.resolve(password), settings: host.vaultSettings)
      let points = PointCatalog(vault: vault, pool: host.pool)
      let listed = try await points.list()
      guard let newest = listed.points.max(by: { ($0.time, $0.id) < ($1.time, $1.id) }) else {
        throw RecoveryError.noPoint(why: listed.unreadable.map { "snapshot \($0.snapshot.prefix(8)): \($0.1.summary)" })
      }
      var kept = KeptCatalog(point: newest, files: try await points.catalogFiles(of: newest.id))
      try kept.move(to: location, password: password)
      return kept
    } catch {
      throw AnyFailure(error)
    }
  }

  /// A repository that was moved, or a password that lies elsewhere now: the text is changed where that gives what is
  /// meant, and left alone where it doesn't.
  private mutating func move(to location: DeclaredRepository.Location, password: SecretReference) throws {
    let catalog = try resolved(files)
    guard catalog.repositories.count == 1, let declared = catalog.repositories.first else {
      remarks.append("it names \(catalog.repositories.count) repositories: check their locations and passwords")
      return
    }
    guard declared.location != location || declared.password != password else { return }
    var changed: [TreePath: [UInt8]] = [:]
    for (path, bytes) in files {
      var text = String(decoding: bytes, as: UTF8.self)
      if declared.location != location {
        text = text.replacing(declared.location.description, with: location.description)
      }
      if declared.password != password {
        text = text.replacing(declared.password.description, with: password.description)
      }
      changed[path] = Array(text.utf8)
    }
    if let moved = try? resolved(changed).repositories.first, moved.location == location, moved.password == password {
      files = changed
      remarks.append(
        "it now names \(location) and \(password) instead of \(declared.location) and \(declared.password)")
    } else {
      remarks.append(
        "it names \(declared.location) and \(declared.password); change that to \(location) and \(password) before going on"
      )
    }
  }

  private func resolved(_ files: [TreePath: [UInt8]]) throws -> Catalog {
    let sources = files.map { SourceFile(path: $0.key.description, text: String(decoding: $0.value, as: UTF8.self)) }
    return try CatalogFiles.resolve(sources, below: "").catalog
  }

  /// Writes the files into a folder, which must not be there.
  ///
  /// - Throws: ``KeptCatalogError`` before anything is written; ``SystemFailure`` with nothing left behind.
  package func write(to folder: String, host: Machine) async throws(AnyFailure) {
    let files = files
    do {
      try await host.pool.run {
        guard !Files.exists(folder) else { throw KeptCatalogError.exists(folder, "--folder") }
        // The names come from the repository, and are not to lead anywhere else.
        for path in files.keys {
          guard path.components.allSatisfy({ $0.bytes != [46] && $0.bytes != [46, 46] && !$0.bytes.contains(0) }) else {
            throw KeptCatalogError.badName(path.description.debugDescription)
          }
        }
        do {
          try Files.createDirectory(folder)
          for (path, bytes) in files {
            let file = "\(folder)/\(path)"
            try Files.createDirectory(Files.parent(of: file))
            try Files.replace(file, with: bytes, mode: 0o644)
          }
        } catch {
          try? Files.removeTree(folder)
          throw error
        }
      }
    } catch {
      throw AnyFailure(error)
    }
  }
}

package enum KeptCatalogError: Failure {
  /// What is there, and the options that name another place.
  case exists(String, String)
  case badName(String)

  package var report: Report {
    switch self {
    case .exists(let path, let options):
      Report("USAGE-301", "\(path) is there already").state("nothing was written")
        .remedy("choose another name with \(options), or move it away")
    case .badName(let name):
      Report("USAGE-303", "the repository's catalog has a file called \(name)", retry: .never)
        .state("nothing was written").remedy("the repository was tampered with: look at who can write to it")
    }
  }
}
