import Core

/// Lists of objects as restic's REST protocol writes them, and the bounds every listing from a network has to keep.
///
/// Source: restic, "REST Backend", API versions 1 and 2.
package enum ObjectListing {
  package static let versionOne = "application/vnd.x.restic.rest.v1"
  package static let versionTwo = "application/vnd.x.restic.rest.v2"

  /// Nobody has more objects of one kind: 16 TiB in packs of restic's usual size are a million.
  package static let limitCount = 8_000_000
  /// What a listing of so many takes as JSON.
  package static let limitBytes = 1 << 30

  /// Version 2: `[{"name": "<64 hex>", "size": 1234}, …]`.
  package static func encode(_ objects: [ObjectInfo]) -> [UInt8] {
    var text = Array("[".utf8)
    text.reserveCapacity(objects.count * 100)
    for (index, object) in objects.enumerated() {
      text += Array(
        "\(index == 0 ? "" : ",")\n{\"name\":\"\(object.name.id?.hex ?? "")\",\"size\":\(object.sizeBytes)}".utf8)
    }
    return text + Array("]".utf8)
  }

  /// Version 1: `["<64 hex>", …]`.
  package static func encodeNames(_ objects: [ObjectInfo]) -> [UInt8] {
    Array(("[" + objects.map { "\"\($0.name.id?.hex ?? "")\"" }.joined(separator: ",\n") + "]").utf8)
  }

  /// Reads version 2. Names that are no object's are left out.
  ///
  /// - Throws: `.unavailable` for what is no such list, `.corrupt` never: nothing lies wrong yet.
  package static func parse(_ json: [UInt8], _ kind: ObjectKind) throws(StoreError) -> [ObjectInfo] {
    var result: [ObjectInfo] = []
    do throws(JSONFault) {
      try JSONScanner.scan(json) { (scanner) throws(JSONFault) in
        try scanner.array { (scanner) throws(JSONFault) in
          var (id, size): (Digest?, Int?) = (nil, nil)
          try scanner.object { (key, scanner) throws(JSONFault) in
            if key == "name" {
              id = try scanner.text().digest
            } else if key == "size" {
              size = try scanner.count()
            } else {
              try scanner.skip()
            }
          }
          guard let id else { return }
          guard let size else { throw scanner.fault("an object without a size") }
          guard result.count < limitCount else { throw scanner.fault("more than \(limitCount) objects") }
          result.append(ObjectInfo(ObjectName(kind, id), sizeBytes: size))
        }
      }
    } catch {
      throw .unavailable("the list of \(kind.rawValue) can't be read at byte \(error.offset): \(error.reason)")
    }
    return try checked(result)
  }

  /// Reads version 1.
  package static func parseNames(_ json: [UInt8], _ kind: ObjectKind) throws(StoreError) -> [ObjectName] {
    var result: [ObjectName] = []
    do throws(JSONFault) {
      try JSONScanner.scan(json) { (scanner) throws(JSONFault) in
        try scanner.array { (scanner) throws(JSONFault) in
          guard let id = try scanner.text().digest else { return }
          guard result.count < limitCount else { throw scanner.fault("more than \(limitCount) objects") }
          result.append(ObjectName(kind, id))
        }
      }
    } catch {
      throw .unavailable("the list of \(kind.rawValue) can't be read at byte \(error.offset): \(error.reason)")
    }
    return result
  }

  /// The same objects, ascending.
  ///
  /// - Throws: `.unavailable` if one is there twice: the list is not what the store holds.
  package static func checked(_ objects: [ObjectInfo]) throws(StoreError) -> [ObjectInfo] {
    let sorted = objects.sorted { a, b in
      guard let x = a.name.id, let y = b.name.id else { return a.name < b.name }
      return x < y
    }
    for (a, b) in zip(sorted, sorted.dropFirst()) where a.name == b.name {
      throw .unavailable("the list names \(a.name) twice")
    }
    return sorted
  }
}
