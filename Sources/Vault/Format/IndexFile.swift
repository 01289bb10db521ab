import Core

/// The blobs of one pack, as an index lists them.
struct IndexedPack: Sendable {
  var id: Digest
  var blobs: [PackedBlob]
}

/// An index file's JSON.
///
/// Source: restic, design document, "Indexing".
enum IndexFile {
  static func encode(_ packs: [IndexedPack]) -> [UInt8] {
    var json = JSONOutput()
    json.bytes.reserveCapacity(packs.reduce(64) { $0 + 100 + $1.blobs.count * 170 })
    json.raw(#"{"packs":["#)
    for (index, pack) in packs.enumerated() {
      if index > 0 { json.byte(",") }
      json.raw(#"{"id":"#)
      json.hex(pack.id)
      json.raw(#","blobs":["#)
      for (index, blob) in pack.blobs.enumerated() {
        if index > 0 { json.byte(",") }
        json.raw(#"{"id":"#)
        json.hex(blob.id)
        blob.kind == .data ? json.raw(#","type":"data","offset":"#) : json.raw(#","type":"tree","offset":"#)
        json.number(blob.offset)
        json.raw(#","length":"#)
        json.number(blob.length)
        if blob.uncompressedBytes > 0 {
          json.raw(#","uncompressed_length":"#)
          json.number(blob.uncompressedBytes)
        }
        json.byte("}")
      }
      json.raw("]}")
    }
    json.raw("]}")
    return json.bytes
  }

  /// Calls `visit` for every pack in turn; the array is reused, so a million blobs cost no million objects.
  static func decode(
    _ bytes: [UInt8], _ visit: (Digest, [PackedBlob]) throws(JSONFault) -> Void
  ) throws(JSONFault) {
    var blobs: [PackedBlob] = []
    var found = false
    try JSONScanner.scan(bytes) { (scanner) throws(JSONFault) in
      try scanner.object { (key, scanner) throws(JSONFault) in
        guard key == "packs" else { return try scanner.skip() }
        found = true
        try scanner.array { (scanner) throws(JSONFault) in
          var id: Digest?
          blobs.removeAll(keepingCapacity: true)
          try scanner.object { (key, scanner) throws(JSONFault) in
            if key == "id" {
              id = try scanner.digest()
            } else if key == "blobs" {
              try scanner.array { (scanner) throws(JSONFault) in blobs.append(try blob(&scanner)) }
            } else {
              try scanner.skip()
            }
          }
          guard let id else { throw scanner.fault("a pack without an id") }
          try visit(id, blobs)
        }
      }
    }
    guard found else { throw JSONFault(offset: 0, reason: "it lists no packs") }
  }

  private static func blob(_ scanner: inout JSONScanner) throws(JSONFault) -> PackedBlob {
    var (id, kind): (BlobID?, BlobKind?) = (nil, nil)
    var (offset, length, uncompressed) = (0, 0, 0)
    try scanner.object { (key, scanner) throws(JSONFault) in
      if key == "id" {
        id = try scanner.digest()
      } else if key == "type" {
        let type = try scanner.text()
        kind = type == "data" ? .data : type == "tree" ? .tree : nil
      } else if key == "offset" {
        offset = try scanner.count()
      } else if key == "length" {
        length = try scanner.count()
      } else if key == "uncompressed_length" {
        uncompressed = try scanner.count()
      } else {
        try scanner.skip()
      }
    }
    guard let id, let kind else { throw scanner.fault("a blob without id or type") }
    let blob = PackedBlob(kind: kind, id: id, offset: offset, length: length, uncompressedBytes: uncompressed)
    guard blob.isPlausible else { throw scanner.fault("blob \(id.short) has an impossible length") }
    return blob
  }
}
